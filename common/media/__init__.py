"""Pictures and sounds: how results are looked at and listened to."""
