package migrations

// Provider lets the tests of this package, which have to be outside of it, go down as well as up.
var Provider = provider
