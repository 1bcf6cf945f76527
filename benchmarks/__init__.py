"""Speed of compfast beside its peers; see README.md here. Nothing in the package imports this."""
