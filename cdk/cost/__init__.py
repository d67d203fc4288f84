"""What a month costs: the synthesized template, at AWS' prices."""
