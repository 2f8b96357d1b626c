"""Build the parts of one stage from the settings: model, data, optimizer, interfaces, device."""
