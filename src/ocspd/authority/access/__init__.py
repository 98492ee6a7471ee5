"""Who may do what: `policy` is the configuration, `guard` stands before endpoints, `actor` is who calls."""
