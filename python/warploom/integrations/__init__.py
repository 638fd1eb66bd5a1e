"""warploom inside other libraries: one module each, importing that library only when it is used."""
