"""Groups of controls that tabs are built of."""
