"""What `appvss doctor` looks at, room by room. Each function gives findings; none changes anything."""
