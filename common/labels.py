"""What labels mean to every network."""

NULL_LABEL = -1  # a row with this label gets no label embedding, so that shapes stay those without label dropout
