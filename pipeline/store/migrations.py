"""The history of the tables: named migrations, in the order in which each database goes through them.

A migration is never edited once released; a change is a new one at the end.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Migration:
    """A step from one schema to the next. Its name never changes."""

    name: str
    statements: tuple[str, ...]


AUTHORS = (
    # Public keys are written once and referred to by number, so that five million follows stay small.
    """
    CREATE TABLE authors (
      id INTEGER PRIMARY KEY,
      public_key BLOB NOT NULL UNIQUE CHECK (length(public_key) = 32)
    ) STRICT
    """,
)
RELAYS = (
    """
    CREATE TABLE relays (
      id INTEGER PRIMARY KEY,
      address TEXT NOT NULL UNIQUE,
      source TEXT NOT NULL,
      first_seen INTEGER NOT NULL,
      last_seen INTEGER NOT NULL,
      namers INTEGER NOT NULL DEFAULT 0,
      named_by_user INTEGER NOT NULL DEFAULT 0,
      crawled_since INTEGER,
      state TEXT NOT NULL DEFAULT 'initializing',
      state_since INTEGER NOT NULL DEFAULT 0,
      subscriptions INTEGER NOT NULL DEFAULT 0,
      rate_limit_backoff INTEGER NOT NULL DEFAULT 0,
      failures INTEGER NOT NULL DEFAULT 0,
      next_dial_at INTEGER NOT NULL DEFAULT 0,
      last_error TEXT NOT NULL DEFAULT '',
      limits TEXT NOT NULL DEFAULT '{}'
    ) STRICT
    """,
    """
    CREATE TABLE relay_namers (
      relay INTEGER NOT NULL, author INTEGER NOT NULL, PRIMARY KEY (relay, author)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE cursors (
      relay INTEGER NOT NULL,
      query TEXT NOT NULL,
      complete_until INTEGER NOT NULL,
      generation INTEGER NOT NULL,
      PRIMARY KEY (relay, query)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE sweeps (
      relay INTEGER NOT NULL,
      sweep TEXT NOT NULL,
      since INTEGER NOT NULL,
      until INTEGER NOT NULL,
      started INTEGER NOT NULL,
      generation INTEGER NOT NULL,
      PRIMARY KEY (relay, sweep)
    ) STRICT, WITHOUT ROWID
    """,
)
INBOX = (
    # AUTOINCREMENT: a number that came back would let a stale receipt match a new row.
    """
    CREATE TABLE inbox (
      seq INTEGER PRIMARY KEY AUTOINCREMENT,
      event_id BLOB NOT NULL UNIQUE CHECK (length(event_id) = 32),
      raw BLOB NOT NULL,
      relay INTEGER NOT NULL,
      received_at INTEGER NOT NULL,
      ready_at INTEGER NOT NULL,
      claims INTEGER NOT NULL DEFAULT 0,
      failures INTEGER NOT NULL DEFAULT 0
    ) STRICT
    """,
    "CREATE INDEX inbox_ready ON inbox (ready_at)",
    """
    CREATE TABLE inbox_dead (
      seq INTEGER PRIMARY KEY,
      event_id BLOB NOT NULL UNIQUE,
      raw BLOB NOT NULL,
      relay INTEGER NOT NULL,
      received_at INTEGER NOT NULL,
      claims INTEGER NOT NULL,
      failures INTEGER NOT NULL,
      reason TEXT NOT NULL,
      buried_at INTEGER NOT NULL
    ) STRICT
    """,
)
OUTBOX = (
    # `event` is the number that the event had in the inbox; `events` keeps its payload under it.
    """
    CREATE TABLE outbox (
      seq INTEGER PRIMARY KEY AUTOINCREMENT,
      event INTEGER NOT NULL,
      sink TEXT NOT NULL,
      ready_at INTEGER NOT NULL,
      claims INTEGER NOT NULL DEFAULT 0,
      failures INTEGER NOT NULL DEFAULT 0
    ) STRICT
    """,
    # Begins with the sink, so that claiming for one never walks over the backlog of another.
    "CREATE INDEX outbox_ready ON outbox (sink, ready_at)",
    """
    CREATE TABLE outbox_dead (
      seq INTEGER PRIMARY KEY,
      event INTEGER NOT NULL,
      sink TEXT NOT NULL,
      claims INTEGER NOT NULL,
      failures INTEGER NOT NULL,
      reason TEXT NOT NULL,
      buried_at INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE deliveries (
      event INTEGER NOT NULL,
      sink TEXT NOT NULL,
      outcome TEXT NOT NULL,
      at INTEGER NOT NULL,
      PRIMARY KEY (event, sink)
    ) STRICT, WITHOUT ROWID
    """,
)
EVENTS = (
    """
    CREATE TABLE seen (
      event_id BLOB PRIMARY KEY CHECK (length(event_id) = 32),
      event INTEGER NOT NULL,
      seen_at INTEGER NOT NULL,
      created_at INTEGER NOT NULL,
      kind INTEGER NOT NULL,
      author INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    # `sinks`: how many deliveries this event owes, so that retention can tell when all are done.
    """
    CREATE TABLE events (
      event INTEGER PRIMARY KEY,
      event_id BLOB NOT NULL,
      payload BLOB NOT NULL,
      relay INTEGER NOT NULL,
      received_at INTEGER NOT NULL,
      sinks INTEGER NOT NULL
    ) STRICT
    """,
)
CONTACTS = (
    """
    CREATE TABLE contact_lists (
      follower INTEGER PRIMARY KEY, event_id BLOB NOT NULL, created_at INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE contacts (
      follower INTEGER NOT NULL, followee INTEGER NOT NULL, PRIMARY KEY (follower, followee)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX contacts_followee ON contacts (followee)",
)
RETRACTIONS = (
    """
    CREATE TABLE deletions (
      event_id BLOB NOT NULL, author INTEGER NOT NULL, PRIMARY KEY (event_id, author)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE TABLE vanished (author INTEGER PRIMARY KEY, until INTEGER NOT NULL) STRICT",
)
WANTED = (
    # One number for every change of what is wanted; a cursor says up to which of them it is complete.
    "CREATE TABLE generations (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), latest INTEGER NOT NULL) STRICT",
    "INSERT INTO generations VALUES (1, 0)",
    # Rows stay when they are no longer wanted (`removed_at`, `refs` = 0), so that a reader sees the removal.
    """
    CREATE TABLE monitored (
      author INTEGER PRIMARY KEY,
      created_at INTEGER NOT NULL,
      updated_at INTEGER NOT NULL,
      removed_at INTEGER,
      generation INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX monitored_generation ON monitored (generation)",
    """
    CREATE TABLE wanted (
      author INTEGER PRIMARY KEY,
      refs INTEGER NOT NULL,
      since INTEGER NOT NULL,
      generation INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX wanted_generation ON wanted (generation)",
)
DISCOVERY = (
    # How the relay is asked (`query` or `whole`), and how the operator wants it to be.
    "ALTER TABLE relays ADD COLUMN asked TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE relays ADD COLUMN ask TEXT NOT NULL DEFAULT 'auto'",
    # `added` or `removed` by hand, else empty.
    "ALTER TABLE relays ADD COLUMN operator TEXT NOT NULL DEFAULT ''",
    # Events that it was the first to bring, as of `novel_at`; they count for less as they age.
    "ALTER TABLE relays ADD COLUMN novel REAL NOT NULL DEFAULT 0",
    "ALTER TABLE relays ADD COLUMN novel_at INTEGER NOT NULL DEFAULT 0",
    # Time spent in former states.
    "ALTER TABLE relays ADD COLUMN connected_ms INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE relays ADD COLUMN disconnected_ms INTEGER NOT NULL DEFAULT 0",
    # When it was last given a chance that its record would not have earned it.
    "ALTER TABLE relays ADD COLUMN tried_at INTEGER NOT NULL DEFAULT 0",
    # When a monitor (NIP-66) last said that it answers.
    "ALTER TABLE relays ADD COLUMN seen_up_at INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX relay_namers_author ON relay_namers (author)",
)

LEASE_HOLDERS = (
    # The slot of the process that leases a row, so that the next one in it can take back what the last one died with.
    "ALTER TABLE inbox ADD COLUMN holder TEXT",
    "ALTER TABLE outbox ADD COLUMN holder TEXT",
)
# By time and then by id, both of which everybody has who asks for one: what comes in is new, so that all of it goes to
# a few pages that are at hand. By id alone each row has a page of its own among millions, and that is written twice.
# Rows are moved in order, which sorts them in memory: some 100 bytes each.
SEEN_BY_TIME = (
    """
    CREATE TABLE seen_by_time (
      event_id BLOB NOT NULL CHECK (length(event_id) = 32),
      event INTEGER NOT NULL,
      seen_at INTEGER NOT NULL,
      created_at INTEGER NOT NULL,
      kind INTEGER NOT NULL,
      author INTEGER NOT NULL,
      PRIMARY KEY (created_at, event_id)
    ) STRICT, WITHOUT ROWID
    """,
    """
    INSERT INTO seen_by_time
    SELECT event_id, event, seen_at, created_at, kind, author FROM seen ORDER BY created_at, event_id
    """,
    "DROP TABLE seen",
    "ALTER TABLE seen_by_time RENAME TO seen",
)
# When it was noted, so that it can be forgotten.
RETRACTED_AT = (
    "ALTER TABLE deletions ADD COLUMN at INTEGER NOT NULL DEFAULT 0",
    "UPDATE deletions SET at = unixepoch() * 1000",
    "ALTER TABLE vanished ADD COLUMN at INTEGER NOT NULL DEFAULT 0",
    "UPDATE vanished SET at = unixepoch() * 1000",
)
# What an operator looks at: why events were dropped, and how the last hour went.
SEEING = (
    """
    CREATE TABLE drops (
      seq INTEGER PRIMARY KEY AUTOINCREMENT,
      event_id BLOB NOT NULL,
      reason TEXT NOT NULL,
      relay INTEGER NOT NULL,
      at INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE samples (
      at INTEGER PRIMARY KEY,
      arrived INTEGER NOT NULL,
      handed_on INTEGER NOT NULL,
      waiting INTEGER NOT NULL,
      median INTEGER,
      slowest INTEGER
    ) STRICT
    """,
)
BACKFILLS = (
    # `authors`: keys of 32 bytes one after the other; none means everything wanted.
    """
    CREATE TABLE backfills (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      since INTEGER NOT NULL,
      until INTEGER NOT NULL,
      authors BLOB NOT NULL,
      created_at INTEGER NOT NULL,
      cancelled_at INTEGER
    ) STRICT
    """,
    """
    CREATE TABLE backfill_relays (
      job INTEGER NOT NULL,
      relay INTEGER NOT NULL,
      parts INTEGER NOT NULL DEFAULT 0,
      done INTEGER NOT NULL DEFAULT 0,
      incomplete INTEGER NOT NULL DEFAULT 0,
      events INTEGER NOT NULL DEFAULT 0,
      is_over INTEGER NOT NULL DEFAULT 0,
      PRIMARY KEY (job, relay)
    ) STRICT, WITHOUT ROWID
    """,
)
# What each process has counted; see `counters`.
TALLIES = (
    """
    CREATE TABLE tallies (
      slot TEXT NOT NULL,
      what TEXT NOT NULL,
      reason TEXT NOT NULL,
      count INTEGER NOT NULL,
      PRIMARY KEY (slot, what, reason)
    ) STRICT, WITHOUT ROWID
    """,
)

# A deletion names events, or addresses up to a time: `event_id` is then the digest of the address.
DELETED_VERSIONS = (f"ALTER TABLE deletions ADD COLUMN until INTEGER NOT NULL DEFAULT {2**63 - 1}",)
# `writes`, `reads`: numbers of relays with commas between. A list that changes gets a new number (see `relay_lists`).
RELAY_LISTS = (
    """
    CREATE TABLE relay_lists (
      seq INTEGER PRIMARY KEY AUTOINCREMENT,
      author INTEGER NOT NULL UNIQUE,
      event_id BLOB NOT NULL,
      created_at INTEGER NOT NULL,
      writes TEXT NOT NULL,
      reads TEXT NOT NULL
    ) STRICT
    """,
)
# Addresses as they are written (see `spellings`); `relays.spelling` is the one that is dialled, empty if canonical.
SPELLINGS = (
    "ALTER TABLE relays ADD COLUMN spelling TEXT NOT NULL DEFAULT ''",
    """
    CREATE TABLE relay_spellings (
      id INTEGER PRIMARY KEY,
      relay INTEGER NOT NULL,
      spelling TEXT NOT NULL,
      by_operator INTEGER NOT NULL DEFAULT 0,
      authors INTEGER NOT NULL DEFAULT 0,
      named_at INTEGER NOT NULL,
      missing_at INTEGER NOT NULL DEFAULT 0,
      UNIQUE (relay, spelling)
    ) STRICT
    """,
    """
    CREATE TABLE relay_spellers (
      spelling INTEGER NOT NULL, author INTEGER NOT NULL, PRIMARY KEY (spelling, author)
    ) STRICT, WITHOUT ROWID
    """,
)

# How the event was retracted when it was saved; NULL where it was not.
RETRACTED_WHEN_SAVED = ("ALTER TABLE events ADD COLUMN retracted TEXT",)
# Spans that a relay holds and does not return; see `gaps`.
GAPS = (
    """
    CREATE TABLE gaps (
      relay INTEGER NOT NULL,
      form TEXT NOT NULL,
      reason TEXT NOT NULL,
      since INTEGER NOT NULL,
      until INTEGER NOT NULL,
      opened_at INTEGER NOT NULL,
      PRIMARY KEY (relay, form, reason, since)
    ) STRICT, WITHOUT ROWID
    """,
)
RUNTIME_DIRECTORY = (
    "CREATE TABLE runtime_directory (only INTEGER PRIMARY KEY CHECK (only = 1), path TEXT NOT NULL) STRICT",
)

# What each crawler noted of its life, and since when commits may be lost; see `runs`.
RUNS = (
    """
    CREATE TABLE runs (
      slot TEXT PRIMARY KEY,
      boot TEXT NOT NULL,
      file INTEGER NOT NULL,
      clock INTEGER NOT NULL,
      since INTEGER NOT NULL,
      alive_at INTEGER NOT NULL,
      is_clean INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE doubts (
      only_row INTEGER PRIMARY KEY CHECK (only_row = 1), since INTEGER NOT NULL, noticed_at INTEGER NOT NULL
    ) STRICT
    """,
)

# How often a row was claimed and given back with nothing wrong, as by a stage that stops.
RETURNED = tuple(f"ALTER TABLE {table} ADD COLUMN returned INTEGER NOT NULL DEFAULT 0" for table in ("inbox", "outbox"))
# What is owed for a relay's absences: since when (Unix seconds, 0 for nothing), and whether that is being swept.
ABSENCES = (
    "ALTER TABLE relays ADD COLUMN owed_since INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE relays ADD COLUMN resweeping INTEGER NOT NULL DEFAULT 0",
)

# What controls showed of the forms of filters that a relay is asked by; see `relay_forms`.
RELAY_FORMS = (
    """
    CREATE TABLE relay_forms (
      relay INTEGER NOT NULL,
      form TEXT NOT NULL,
      verdict TEXT NOT NULL,
      checked_at INTEGER NOT NULL,
      requests INTEGER NOT NULL,
      PRIMARY KEY (relay, form)
    ) STRICT, WITHOUT ROWID
    """,
)

# What was sent to a sink within the last minute; see `sent`.
SENT = ("CREATE TABLE sent (sink TEXT NOT NULL, at INTEGER NOT NULL, count INTEGER NOT NULL) STRICT",)

TARGET_RELAY = (
    """
    CREATE TABLE target_relay (
      only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
      address TEXT NOT NULL,
      state TEXT NOT NULL,
      state_since INTEGER NOT NULL
    ) STRICT
    """,
)

# Who names how many addresses, and the addresses that may be forgotten; see `relay_pruning`.
RELAY_NAMING = (
    "ALTER TABLE relay_namers ADD COLUMN as_monitor INTEGER NOT NULL DEFAULT 0",
    "DROP INDEX relay_namers_author",
    "CREATE INDEX relay_namers_author ON relay_namers (author, as_monitor)",
    """
    CREATE INDEX relays_unanswered ON relays (last_seen)
     WHERE connected_ms = 0 AND state NOT IN ('connected', 'backpressured') AND novel = 0 AND operator = ''
       AND source NOT IN ('bootstrap', 'go-import')
    """,
)

# The signed event that a user registered by last (its time in seconds, kept after a removal), the time of the removal's
# own event, and since when the operator refuses the key (ms).
SIGNED_REGISTRATIONS = (
    "ALTER TABLE monitored ADD COLUMN event_id BLOB",
    "ALTER TABLE monitored ADD COLUMN signed_at INTEGER NOT NULL DEFAULT -1",
    "ALTER TABLE monitored ADD COLUMN revoked_at INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE monitored ADD COLUMN blocked_at INTEGER",
)

# What a relay's events cost (`RelayCosts`): how many were forged and when it was last cut off for them;
# bytes of authors whom no registered user follows, and since when they are paced (times in ms, 0 for never).
RELAY_COSTS = (
    "ALTER TABLE relays ADD COLUMN forged INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE relays ADD COLUMN forged_at INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE relays ADD COLUMN stranger_bytes INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE relays ADD COLUMN paced_at INTEGER NOT NULL DEFAULT 0",
)

# How many authors are wanted and may be; per user, how many followees there are and wait; see `shares`. `place`: the
# later a follow was first listed, the higher.
WANTED_BUDGET = (
    """
    CREATE TABLE wanted_budget (
      only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
      authors INTEGER NOT NULL,
      max_authors INTEGER NOT NULL,
      level INTEGER NOT NULL
    ) STRICT
    """,
    "INSERT INTO wanted_budget SELECT 1, count(*), 0, 0 FROM wanted WHERE refs > 0",
    "ALTER TABLE contacts ADD COLUMN place INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE contacts ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE monitored ADD COLUMN followees INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE monitored ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0",
    """
    UPDATE monitored SET followees = (
      SELECT count(*) FROM contacts WHERE follower = monitored.author AND followee <> follower
    ) WHERE removed_at IS NULL
    """,
    "CREATE INDEX monitored_waiting ON monitored (waiting) WHERE waiting > 0",
)

# Bytes of the events that wait, in the indexes that are walked to count them.
WAITING_BYTES = (
    "ALTER TABLE inbox ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE inbox_dead ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0",
    "UPDATE inbox SET bytes = length(raw)",
    "UPDATE inbox_dead SET bytes = length(raw)",
    "DROP INDEX inbox_ready",
    "CREATE INDEX inbox_ready ON inbox (ready_at, bytes)",
    "ALTER TABLE outbox ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE outbox_dead ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0",
    """
    UPDATE outbox SET bytes = length(events.payload) FROM events WHERE events.event = outbox.event
    """,
    "DROP INDEX outbox_ready",
    "CREATE INDEX outbox_ready ON outbox (sink, ready_at, bytes)",
)

# Ids of events that a relay gave; see `relay_samples`.
RELAY_SAMPLES = ("CREATE TABLE relay_samples (relay INTEGER PRIMARY KEY, ids BLOB NOT NULL) STRICT",)

# When a relay was last the first to bring an event of a wanted author (ms), and the IP address that its name led to.
PROVEN_RELAYS = (
    "ALTER TABLE relays ADD COLUMN productive_at INTEGER NOT NULL DEFAULT 0",
    "UPDATE relays SET productive_at = novel_at WHERE novel >= 1",
    "ALTER TABLE relays ADD COLUMN resolved TEXT NOT NULL DEFAULT ''",
)

# Which wanted authors come before which; see `wanted_authors`. Those that are known come before all that are new.
WANTED_TIERS = (
    "ALTER TABLE wanted ADD COLUMN tier INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX wanted_tier ON wanted (tier) WHERE refs > 0",
)

# What is left to do of contact lists that change a lot; see `contact_slices`.
CONTACT_SLICES = (
    """
    CREATE TABLE contact_slices (
      slice INTEGER PRIMARY KEY,
      follower INTEGER NOT NULL,
      since INTEGER NOT NULL,
      added BLOB NOT NULL,
      places BLOB NOT NULL,
      removed BLOB NOT NULL
    ) STRICT
    """,
    "CREATE INDEX contact_slices_follower ON contact_slices (follower)",
)

# Payloads in a table of their own, so that rows which are leased, moved and removed have a few dozen bytes. The number
# of an event is that of its first row in the inbox; one that is queued again keeps it under another number. Rows that
# wait are found by time and id, as those of `seen`, and for the same reason.
_CREATED_AT = "CAST(CASE WHEN json_valid(CAST(raw AS TEXT)) THEN raw ->> '$.created_at' END AS INTEGER)"
PAYLOADS = (
    "CREATE TABLE payloads (event INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT",
    "INSERT INTO payloads SELECT event, payload FROM events",
    "INSERT INTO payloads SELECT seq, raw FROM inbox",
    "INSERT INTO payloads SELECT seq, raw FROM inbox_dead",
    "ALTER TABLE events DROP COLUMN payload",
    """
    CREATE TABLE waiting (
      seq INTEGER PRIMARY KEY AUTOINCREMENT,
      event INTEGER NOT NULL,
      event_id BLOB NOT NULL CHECK (length(event_id) = 32),
      created_at INTEGER NOT NULL DEFAULT 0,
      relay INTEGER NOT NULL,
      received_at INTEGER NOT NULL,
      ready_at INTEGER NOT NULL,
      bytes INTEGER NOT NULL DEFAULT 0,
      claims INTEGER NOT NULL DEFAULT 0,
      failures INTEGER NOT NULL DEFAULT 0,
      returned INTEGER NOT NULL DEFAULT 0,
      holder TEXT
    ) STRICT
    """,
    f"""
    INSERT INTO waiting
    SELECT seq, seq, event_id, coalesce({_CREATED_AT}, 0), relay, received_at, ready_at, bytes, claims, failures,
           returned, holder
      FROM inbox
    """,  # noqa: S608 (our own text)
    # Numbers go on from where they were.
    "DELETE FROM sqlite_sequence WHERE name = 'waiting'",
    "INSERT INTO sqlite_sequence SELECT 'waiting', seq FROM sqlite_sequence WHERE name = 'inbox'",
    "DROP TABLE inbox",
    "ALTER TABLE waiting RENAME TO inbox",
    "CREATE INDEX inbox_ready ON inbox (ready_at, bytes)",
    "CREATE UNIQUE INDEX inbox_by_time ON inbox (created_at, event_id)",
    "ALTER TABLE inbox_dead ADD COLUMN event INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE inbox_dead ADD COLUMN created_at INTEGER NOT NULL DEFAULT 0",
    f"UPDATE inbox_dead SET event = seq, created_at = coalesce({_CREATED_AT}, 0)",  # noqa: S608
    "ALTER TABLE inbox_dead DROP COLUMN raw",
)

# Who has left and holds followees still; see `shares`.
LEAVING_USERS = (
    "CREATE INDEX monitored_leaving ON monitored (author) WHERE removed_at IS NOT NULL AND followees > waiting",
)

# Which rules an event matched when it was saved, their names with blanks between (NULL where that was not noted), and
# the registered users it mentions, keys of 32 bytes one after the other; see `events.Accepted`.
MATCHED_RULES = (
    "ALTER TABLE events ADD COLUMN rules TEXT",
    "ALTER TABLE events ADD COLUMN mentions BLOB",
)

# The newest scheduled audit, and how many events all audits have found missing; see `audits`.
AUDITS = (
    """
    CREATE TABLE audits (
      only INTEGER PRIMARY KEY CHECK (only = 1),
      at INTEGER NOT NULL DEFAULT 0,
      had INTEGER NOT NULL DEFAULT 0,
      missed INTEGER NOT NULL DEFAULT 0,
      all_missed INTEGER NOT NULL DEFAULT 0
    ) STRICT
    """,
    "INSERT INTO audits (only) VALUES (1)",
)

# Replays and the events that they have queued, see `replays` and `replay_queue`. `after_time`, `after_id`: how far they
# have walked through `seen`. Of what is not kept: `is_missing` once no relay returned it.
REPLAYS = (
    """
    CREATE TABLE replays (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      sink TEXT NOT NULL,
      since INTEGER NOT NULL,
      until INTEGER NOT NULL,
      authors BLOB NOT NULL,
      rules TEXT NOT NULL,
      total INTEGER NOT NULL,
      created_at INTEGER NOT NULL,
      ended_at INTEGER,
      after_time INTEGER NOT NULL DEFAULT -1,
      after_id BLOB NOT NULL DEFAULT x'',
      is_walked INTEGER NOT NULL DEFAULT 0,
      from_store INTEGER NOT NULL DEFAULT 0,
      from_relays INTEGER NOT NULL DEFAULT 0,
      other_rule INTEGER NOT NULL DEFAULT 0,
      missing INTEGER NOT NULL DEFAULT 0,
      delivered INTEGER NOT NULL DEFAULT 0,
      refused INTEGER NOT NULL DEFAULT 0,
      retracted INTEGER NOT NULL DEFAULT 0
    ) STRICT
    """,
    """
    CREATE TABLE replay_queue (
      seq INTEGER PRIMARY KEY AUTOINCREMENT,
      event INTEGER NOT NULL,
      sink TEXT NOT NULL,
      job INTEGER NOT NULL,
      ready_at INTEGER NOT NULL,
      bytes INTEGER NOT NULL DEFAULT 0,
      claims INTEGER NOT NULL DEFAULT 0,
      failures INTEGER NOT NULL DEFAULT 0,
      returned INTEGER NOT NULL DEFAULT 0,
      holder TEXT
    ) STRICT
    """,
    "CREATE UNIQUE INDEX replay_queue_event ON replay_queue (event, sink)",
    "CREATE INDEX replay_queue_ready ON replay_queue (sink, ready_at)",
    """
    CREATE TABLE replay_fetches (
      job INTEGER NOT NULL,
      event INTEGER NOT NULL,
      event_id BLOB NOT NULL,
      created_at INTEGER NOT NULL,
      kind INTEGER NOT NULL,
      author INTEGER NOT NULL,
      seen_at INTEGER NOT NULL,
      is_missing INTEGER NOT NULL DEFAULT 0,
      PRIMARY KEY (job, is_missing, event)
    ) STRICT, WITHOUT ROWID
    """,
)

# The sinks that this database has or had, see `sinks`; which sink the first outbox was for is not known yet.
SINKS = (
    """
    CREATE TABLE sinks (
      number INTEGER PRIMARY KEY, outbox TEXT NOT NULL UNIQUE, sink TEXT NOT NULL UNIQUE
    ) STRICT
    """,
    "INSERT INTO sinks VALUES (1, 'pubsub', ''), (2, 'relay', 'relay')",
)

# Until when the sink, then alone, had outcomes under `pubsub`, see `sinks.OwnOutcomes`; 0: never, or not noted.
ALONE_UNTIL = ("ALTER TABLE sinks ADD COLUMN alone_until INTEGER NOT NULL DEFAULT 0",)

# Hand-over to the hub, where several hosts crawl; see `parcels` and `taken_parcels`. Empty elsewhere.
HUB = (
    # `first`: the number before the stream's first; a parcel's number within the stream is its number less this.
    """
    CREATE TABLE hub_stream (
      only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
      stream TEXT NOT NULL,
      predecessor TEXT NOT NULL,
      is_opened INTEGER NOT NULL DEFAULT 0,
      first INTEGER NOT NULL,
      last INTEGER NOT NULL,
      sent INTEGER NOT NULL,
      digest BLOB NOT NULL DEFAULT x'',
      notes_after INTEGER NOT NULL DEFAULT 0
    ) STRICT
    """,
    # Never changed once written: a body is a megabyte.
    """
    CREATE TABLE parcels (
      number INTEGER PRIMARY KEY,
      events INTEGER NOT NULL,
      last_event INTEGER NOT NULL,
      received_at INTEGER NOT NULL,
      notes BLOB NOT NULL,
      body BLOB NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE sent_parcels (
      number INTEGER PRIMARY KEY,
      stream TEXT NOT NULL,
      in_stream INTEGER NOT NULL,
      digest BLOB NOT NULL,
      last_event INTEGER NOT NULL,
      received_at INTEGER NOT NULL,
      hub_at INTEGER NOT NULL,
      sent_at INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE hub_changed_cursors (
      relay INTEGER NOT NULL, query TEXT NOT NULL, PRIMARY KEY (relay, query)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE TABLE hub_changed_relays (relay INTEGER PRIMARY KEY) STRICT",
    # What the hub lost; see `hub_losses`.
    """
    CREATE TABLE hub_losses (
      only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
      number INTEGER NOT NULL,
      after_event INTEGER NOT NULL,
      until_event INTEGER NOT NULL,
      is_settled INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE TABLE loss_followers (slot TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    """
    CREATE TABLE hub_positions (
      stream TEXT PRIMARY KEY, number INTEGER NOT NULL, digest BLOB NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE hub_taken (
      stream TEXT NOT NULL, number INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (stream, number)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE unread_parcels (
      id INTEGER PRIMARY KEY,
      host TEXT NOT NULL,
      at INTEGER NOT NULL,
      notes BLOB NOT NULL,
      body BLOB NOT NULL
    ) STRICT
    """,
)

# What a crawling host of several holds, and which plan it follows; see `held_shares` and `plan_copy`.
HELD_SHARES = (
    """
    CREATE TABLE asking_right (
      only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
      boot TEXT NOT NULL,
      asked_at REAL NOT NULL,
      lease_s REAL NOT NULL,
      version INTEGER NOT NULL,
      renewal INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE TABLE held_hosts (host_key TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    "CREATE TABLE right_followers (slot TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    """
    CREATE TABLE hub_plan (
      only_row INTEGER PRIMARY KEY CHECK (only_row = 1), id TEXT NOT NULL, lists INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE TABLE unfit_hosts (host_key TEXT PRIMARY KEY, reason TEXT NOT NULL) STRICT, WITHOUT ROWID",
)

# Which database is home, where several hosts crawl; see `hub_home`.
HUB_HOME = (
    """
    CREATE TABLE hub_home (
      only_row INTEGER PRIMARY KEY CHECK (only_row = 1), id TEXT NOT NULL, file INTEGER NOT NULL, epoch INTEGER NOT NULL
    ) STRICT
    """,
)

# The newest registration or departure that the hub had before it was acknowledged; see `user_acts`.
USER_ACTS = (
    """
    CREATE TABLE user_act_position (
      only_row INTEGER PRIMARY KEY CHECK (only_row = 1), number INTEGER NOT NULL
    ) STRICT
    """,
)

# The newest backup of this database; see `backups`.
NEWEST_BACKUP = (
    """
    CREATE TABLE backups (
      only_row INTEGER PRIMARY KEY CHECK (only_row = 1), at INTEGER NOT NULL, user_acts INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE TABLE backup_positions (stream TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID",
)

# What a home host did not want of what it took, and how far a crawling host knows; see `unwanted_ids`.
UNWANTED_IDS = (
    """
    CREATE TABLE unwanted_ids (
      seq INTEGER PRIMARY KEY, event_id BLOB NOT NULL, created_at INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE unwanted_place (
      only_row INTEGER PRIMARY KEY CHECK (only_row = 1), place INTEGER NOT NULL
    ) STRICT
    """,
)

# What home knows of the hosts that crawl for it, see `hosts` and `host_counts`; and the name under which a crawling
# host counts, see `state_report`.
HOST_STATES = (
    """
    CREATE TABLE hosts (
      host TEXT PRIMARY KEY,
      version TEXT NOT NULL,
      is_draining INTEGER NOT NULL,
      seen_at INTEGER NOT NULL,
      clock_skew INTEGER NOT NULL,
      backlog_events INTEGER NOT NULL,
      backlog_parcels INTEGER NOT NULL,
      untaken INTEGER NOT NULL,
      relays INTEGER NOT NULL DEFAULT 0,
      read_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE host_parts (
      host TEXT NOT NULL,
      part TEXT NOT NULL,
      digest TEXT NOT NULL,
      origin TEXT NOT NULL DEFAULT '',
      position INTEGER NOT NULL DEFAULT 0,
      PRIMARY KEY (host, part)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE host_counts (
      host TEXT NOT NULL,
      name TEXT NOT NULL,
      labels TEXT NOT NULL,
      era TEXT NOT NULL,
      before REAL NOT NULL,
      value REAL NOT NULL,
      PRIMARY KEY (host, name, labels)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE host_gauges (
      host TEXT NOT NULL, name TEXT NOT NULL, labels TEXT NOT NULL, value REAL NOT NULL,
      PRIMARY KEY (host, name, labels)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE share_holders (
      host_key TEXT PRIMARY KEY, wished TEXT NOT NULL, holder TEXT NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE host_unfit (
      host TEXT NOT NULL, host_key TEXT NOT NULL, until INTEGER NOT NULL, reason TEXT NOT NULL,
      PRIMARY KEY (host_key, host)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE host_events (
      first_event INTEGER PRIMARY KEY, last_event INTEGER NOT NULL, host TEXT NOT NULL
    ) STRICT
    """,
    "ALTER TABLE drops ADD COLUMN host TEXT NOT NULL DEFAULT ''",
    """
    CREATE TABLE state_origin (
      only_row INTEGER PRIMARY KEY CHECK (only_row = 1), origin TEXT NOT NULL
    ) STRICT
    """,
)

MIGRATIONS: tuple[Migration, ...] = (
    Migration("0001-first-road", (*AUTHORS, *RELAYS, *INBOX, *OUTBOX, *EVENTS, *CONTACTS, *RETRACTIONS, *WANTED)),
    Migration("0002-discovery", DISCOVERY),
    Migration("0003-lease-holders", LEASE_HOLDERS),
    Migration("0004-seen-by-time", SEEN_BY_TIME),
    Migration("0005-retracted-at", RETRACTED_AT),
    Migration("0006-seeing", SEEING),
    Migration("0007-backfills", BACKFILLS),
    Migration("0008-tallies", TALLIES),
    Migration("0009-deleted-versions", DELETED_VERSIONS),
    Migration("0010-relay-lists", RELAY_LISTS),
    Migration("0011-retracted-when-saved", RETRACTED_WHEN_SAVED),
    Migration("0012-gaps", GAPS),
    Migration("0013-spellings", SPELLINGS),
    Migration("0014-runs", RUNS),
    Migration("0015-runtime-directory", RUNTIME_DIRECTORY),
    Migration("0016-returned", RETURNED),
    Migration("0017-relay-forms", RELAY_FORMS),
    Migration("0018-absences", ABSENCES),
    Migration("0019-sent", SENT),
    Migration("0020-target-relay", TARGET_RELAY),
    Migration("0021-relay-naming", RELAY_NAMING),
    Migration("0022-signed-registrations", SIGNED_REGISTRATIONS),
    Migration("0023-relay-costs", RELAY_COSTS),
    Migration("0024-wanted-budget", WANTED_BUDGET),
    Migration("0025-waiting-bytes", WAITING_BYTES),
    Migration("0026-relay-samples", RELAY_SAMPLES),
    Migration("0027-proven-relays", PROVEN_RELAYS),
    Migration("0028-wanted-tiers", WANTED_TIERS),
    Migration("0029-contact-slices", CONTACT_SLICES),
    Migration("0030-payloads", PAYLOADS),
    Migration("0031-leaving-users", LEAVING_USERS),
    Migration("0032-matched-rules", MATCHED_RULES),
    Migration("0033-audits", AUDITS),
    Migration("0034-replays", REPLAYS),
    Migration("0035-sinks", SINKS),
    Migration("0036-hub", HUB),
    Migration("0037-held-shares", HELD_SHARES),
    Migration("0038-hub-home", HUB_HOME),
    Migration("0039-user-acts", USER_ACTS),
    Migration("0040-newest-backup", NEWEST_BACKUP),
    Migration("0041-alone-until", ALONE_UNTIL),
    Migration("0042-unwanted-ids", UNWANTED_IDS),
    Migration("0043-host-states", HOST_STATES),
)
