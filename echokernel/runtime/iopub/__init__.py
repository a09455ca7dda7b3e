"""IOPub: publishes from any thread, welcomes each subscriber, bounds what a slow one costs."""
