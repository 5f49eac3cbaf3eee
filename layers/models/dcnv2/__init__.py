"""DCN V2: the model and every part that only it uses."""
