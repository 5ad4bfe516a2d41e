"""A fleet's past out of a Prometheus server: what is asked, what it answers, what follows. `client` alone does I/O."""
