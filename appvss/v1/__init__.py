"""Generated from proto/appvss/v1 by `make proto`. Never edited."""
