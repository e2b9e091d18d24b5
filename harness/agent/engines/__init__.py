"""One module per engine, behind the contract in `base.py`."""
