"""The verbs: one cycle from request to verdict. Pure: time comes in as an argument, effects go out as values."""
