"""``kvmweb``: the command line over the site's API. Knows no Django and no app of the site."""
