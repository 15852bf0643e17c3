"""Messages between modules: kinds, headers and arrays, validation and the msgpack codec."""
