"""Pickles of a few hundred bytes that take forever to load."""

NESTED = b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(60))
"""Sixty nested tuples, each of which holds the previous one twice: hashing or printing the last one takes 2**60 steps."""

ENDLESS = {
    "a key": b"})q\x000" + NESTED + b"h\x3cK\x01s.",
    "a key among others": b"})q\x000" + NESTED + b"(U\x01aK\x01h\x3cK\x01u.",
    "a key of a dict of protocol 0": b")q\x000" + NESTED + b"(h\x3cK\x01d.",
    "the name of a dtype": b"})q\x000" + NESTED + b"cnumpy\ndtype\nh\x3c\x85R.",
    "what is called": b"})q\x000" + NESTED + b"h\x3c)R.",
    "lists in lists": b"}]q\x000" + b"".join(b"(h%ch%clq%c0" % (i, i, i + 1) for i in range(60)) + b"U\x01ah\x3cs.",
}
