"""From settings to the parts of one stage: model, data, optimizer, interfaces, device."""
