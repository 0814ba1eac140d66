"""Version 1 of the messages: `package holdfast.v1`. Fields are only added."""
