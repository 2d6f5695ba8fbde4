"""Number formats and precision records as the hardware model reads them."""
