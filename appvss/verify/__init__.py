"""What a copy of an application's files is really worth: it is started, privately, and looked at (`appvss verify`)."""
