"""What the controller and the agent share: time, errors, authentication, policy, and the pure steps of an evacuation."""
