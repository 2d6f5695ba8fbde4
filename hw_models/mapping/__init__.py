"""How a layer's loops are mapped onto an accelerator, and the traffic at each memory level that follows."""
