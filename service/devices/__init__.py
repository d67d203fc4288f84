"""The role `devices`: readings and presence of MQTT devices."""
