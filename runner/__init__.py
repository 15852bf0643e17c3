"""What a person uses: configs, data, command line, run directories, the script interface."""
