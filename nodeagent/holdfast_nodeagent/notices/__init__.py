"""Where notices come from: one module per cloud, each a pure parse and a thin poll."""
