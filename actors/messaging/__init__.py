"""Messages between modules: kinds, the message itself, validation and the msgpack codec."""
