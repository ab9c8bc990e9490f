"""A batch recomputation of every reading from the raw files (rules 20, 32), written without the product's code.

`arrive` decides what an event is and when (rules 4 to 9), `raw` reads the files, `town` the city packs, `grid` the
windows, `told` which cells exist, `climbing` turns numbers of sites into readings of every level; the formulas are in
`roads`, `sky`, `services`, `cases` and `vitals`, from the words of the standards, in integers and fractions.
`versus` compares with the product's newest revisions. Nothing here but `broken` may import the product.
"""
