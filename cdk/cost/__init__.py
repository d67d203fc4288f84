"""What a month costs, of the synthesized template and AWS' prices."""
