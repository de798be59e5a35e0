"""Kinds that relays are asked for by name, where they want names, or tell apart."""

from pipeline.nostr.kinds import CONFIDENTIAL_KINDS, CONTACTS, METADATA, RELAY_LIST

PROFILE_KINDS = frozenset({METADATA, CONTACTS, RELAY_LIST})
# Kinds that some relays show to those involved only, but count to a page's limit all the same.
HIDDEN_KINDS = CONFIDENTIAL_KINDS
# The other kinds that the NIPs define and relays store, for relays that answer to named kinds only.
LISTED_KINDS = frozenset(
    {
        0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 24, 30, 31, 32, 33, 40, 41, 42, 43,
        44, 62, 64, 78, 443, 444, 445, 818, 1018, 1021, 1022, 1040, 1063, 1068, 1111, 1222, 1244, 1311, 1337, 1517,
        1617, 1618, 1619, 1621, 1622, 1630, 1631, 1632, 1633, 1971, 1984, 1985, 1986, 1987, 2003, 2004, 2022, 4550,
        7000, 7374, 7375, 7376, 8000, 8001, 9000, 9001, 9002, 9005, 9007, 9008, 9009, 9021, 9022, 9041, 9321, 9467,
        9734, 9735, 9802, 10000, 10001, 10002, 10003, 10004, 10005, 10006, 10007, 10009, 10012, 10013, 10015, 10019,
        10020, 10030, 10050, 10051, 10063, 10096, 10101, 10102, 10166, 10312, 10377, 11111, 13194, 13534, 14388,
        17375, 30000, 30001, 30002, 30003, 30004, 30005, 30006, 30007, 30008, 30009, 30015, 30017, 30018, 30019,
        30020, 30023, 30024, 30030, 30040, 30041, 30063, 30078, 30166, 30267, 30311, 30312, 30313, 30315, 30388,
        30402, 30403, 30617, 30618, 30818, 30819, 31234, 31388, 31890, 31922, 31923, 31924, 31925, 31989, 31990,
        32123, 32267, 32388, 33388, 34235, 34236, 34237, 34550, 37516, 38172, 38173, 38383, 39000, 39001, 39002,
        39003, 39089, 39092, 39701,
    }
)  # fmt: skip

ALL_KINDS = LISTED_KINDS | HIDDEN_KINDS
# Kinds that relays pass on and do not store, of the NIPs and of widespread clients.
EPHEMERAL_KINDS = frozenset(
    {20000, 20001, 21000, 22242, 23194, 23195, 23196, 23197, 24133, 24242, 27235, 28934, 28935, 28936}
)
