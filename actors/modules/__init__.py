"""The built-in module types; a module of your own imports the names of ``actors`` instead of these files."""
