"""A device in Python, in shell, and what an ESP32 needs: each publishes readings over MQTT."""
