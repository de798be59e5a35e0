// A relay on khatru over one of eventstore's backends, for tests on loopback.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/fiatjaf/eventstore"
	"github.com/fiatjaf/eventstore/badger"
	"github.com/fiatjaf/eventstore/lmdb"
	"github.com/fiatjaf/eventstore/slicestore"
	"github.com/fiatjaf/eventstore/sqlite3"
	"github.com/fiatjaf/khatru"
	"github.com/fiatjaf/khatru/policies"
	"github.com/nbd-wtf/go-nostr"
)

type options struct {
	address, folder, store string
	limit, kinds           int
	strict, negentropy     bool
}

func main() {
	var chosen options
	flag.StringVar(&chosen.address, "address", "", "loopback address and port, as HOST:PORT")
	flag.StringVar(&chosen.folder, "folder", ".", "where the events are kept")
	flag.StringVar(&chosen.store, "store", "lmdb", "lmdb, badger, sqlite3 or slice (memory)")
	flag.IntVar(&chosen.limit, "limit", 0, "most events of an answer; 0: the store's own")
	flag.IntVar(&chosen.kinds, "kinds", 0, "most kinds of a filter; 0: any number")
	flag.BoolVar(&chosen.strict, "strict", false, "khatru's policies for filters and connections")
	flag.BoolVar(&chosen.negentropy, "negentropy", false, "answer NIP-77")
	flag.Parse()
	log.Fatal(run(chosen))
}

func run(chosen options) error {
	host, _, err := net.SplitHostPort(chosen.address)
	if err != nil {
		return err
	}
	if address := net.ParseIP(host); address == nil || !address.IsLoopback() {
		return errors.New("not a loopback address: " + host)
	}
	store, err := opened(chosen)
	if err != nil {
		return err
	}
	defer store.Close()
	return http.ListenAndServe(chosen.address, relay(store, chosen))
}

// opened returns the store, ready to be used.
func opened(chosen options) (eventstore.Store, error) {
	var store eventstore.Store
	switch chosen.store {
	case "lmdb":
		store = &lmdb.LMDBBackend{Path: filepath.Join(chosen.folder, "lmdb"), MaxLimit: chosen.limit, MapSize: 1 << 32}
	case "badger":
		store = &badger.BadgerBackend{Path: filepath.Join(chosen.folder, "badger"), MaxLimit: chosen.limit}
	case "sqlite3":
		url := filepath.Join(chosen.folder, "events.sqlite3") + "?_journal_mode=WAL&_synchronous=OFF&_busy_timeout=10000"
		store = &sqlite3.SQLite3Backend{DatabaseURL: url, QueryLimit: chosen.limit}
	case "slice":
		store = &slicestore.SliceStore{MaxLimit: chosen.limit}
	default:
		return nil, errors.New("no such store: " + chosen.store)
	}
	return store, store.Init()
}

func relay(store eventstore.Store, chosen options) *khatru.Relay {
	made := khatru.NewRelay()
	made.Negentropy = chosen.negentropy
	made.StoreEvent = append(made.StoreEvent, store.SaveEvent)
	made.QueryEvents = append(made.QueryEvents, store.QueryEvents)
	made.DeleteEvent = append(made.DeleteEvent, store.DeleteEvent)
	made.ReplaceEvent = append(made.ReplaceEvent, store.ReplaceEvent)
	if chosen.kinds > 0 {
		made.RejectFilter = append(made.RejectFilter, func(_ context.Context, filter nostr.Filter) (bool, string) {
			return len(filter.Kinds) > chosen.kinds, "blocked: too many kinds"
		})
	}
	if chosen.strict {
		// Those of khatru's own sane defaults that concern readers: events come in at any rate.
		made.RejectFilter = append(made.RejectFilter,
			policies.NoComplexFilters,
			policies.NoEmptyFilters,
			policies.AntiSyncBots,
			policies.FilterIPRateLimiter(20, time.Minute, 100),
		)
		made.RejectConnection = append(made.RejectConnection, policies.ConnectionRateLimiter(1, 5*time.Minute, 100))
	}
	return made
}
