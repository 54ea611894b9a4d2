"""What app authors import, through `appvss`: async and sync, and the kit that checks their app."""
