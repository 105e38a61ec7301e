"""Gives way to broody. See `broody._shadow`."""

import broody

broody.install()
