-- The engine's tables. Only the engine writes them, through its journal (actors/README.md says how and why).
-- No foreign keys among them: one writer, whose every batch is derived from rows it has just fenced, needs no second
-- check on the hot path; `souk audit` checks the same sentences over the whole database.

-- one row an engine: every batch raises seq, a newer engine raises epoch, and so shuts the older one out
create table journal (
    id smallint primary key,
    epoch bigint not null,
    seq bigint not null,
    -- which process holds the epoch: told anew at every start, so that an engine whose connection was cut can tell its own
    -- epoch from a newer engine's
    owner uuid,
    -- entries that batch stale_seq took out as conflicts, by the id they are about: what an engine that lost the reply
    -- must still be able to learn
    stale_seq bigint not null default 0,
    stale bigint[] not null default '{}'
);
insert into journal (id, epoch, seq) values (1, 0, 0);

-- ids are leased in blocks (gaps are allowed): an id costs no round trip, and bigint keys keep growing to the right.
-- One series, 'id', serves orders, products, SKUs, payments, refunds and tasks alike; 'ledger' is the journal's own
create table id_block (
    name text primary key,
    next bigint not null
);

-- what there is. The three checks are the last word: whatever the program believes, nothing is sold that is not there.
-- fillfactor leaves room for HOT updates: this is the one row that thousands of buyers change
create table stock (
    sku_id bigint primary key,
    on_hand bigint not null,
    reserved bigint not null default 0,
    version bigint not null default 1,
    constraint stock_on_hand_not_negative check (on_hand >= 0),
    constraint stock_reserved_not_negative check (reserved >= 0),
    constraint stock_reserved_within_on_hand check (reserved <= on_hand)
) with (fillfactor = 50);

create type ledger_cause as enum ('open', 'adjust', 'reserve', 'commit', 'release', 'expire');

-- every move of stock, one row each; the sums of a SKU's rows are its counters at every commit.
-- the one index serves as key and as "the moves of this SKU, newest last": a second index would cost a fifth of the rate
create table ledger (
    id bigint not null,
    sku_id bigint not null,
    d_on_hand bigint not null,
    d_reserved bigint not null,
    cause ledger_cause not null,
    order_id bigint,
    who text not null,
    note text,
    at timestamptz not null,
    primary key (sku_id, id)
);

create type order_status as enum ('awaiting_payment', 'confirmed', 'completed', 'cancelling', 'cancelled', 'expired');

create table customer_order (
    id bigint primary key,
    -- grows with every change; each change names the version it was decided on
    version integer not null,
    status order_status not null,
    email text not null,
    address jsonb not null,
    currency text not null,
    total_minor bigint not null,
    -- when the hold ends; kept after the order has left 'awaiting_payment', as history
    deadline timestamptz not null,
    created_at timestamptz not null,
    constraint customer_order_total_not_negative check (total_minor >= 0)
);
-- "which holds are due" is asked several times a second; only open orders are in it
create index customer_order_due on customer_order (deadline) where status = 'awaiting_payment';

create type reservation_state as enum ('held', 'committed', 'released', 'expired');

-- an order's lines. A fresh reservation for late money adds parts to the same lines; a split will do the same
create table reservation (
    order_id bigint not null,
    part integer not null,
    line integer not null,
    sku_id bigint not null,
    quantity bigint not null,
    unit_price_minor bigint not null,
    state reservation_state not null,
    primary key (order_id, part),
    constraint reservation_quantity_positive check (quantity > 0)
);
-- an order's timeline. Number 1, the placement, is the order's own row: a hot path pays for no second copy
create table order_event (
    order_id bigint not null,
    seq integer not null,
    kind text not null,
    data jsonb not null,
    who text not null,
    at timestamptz not null,
    primary key (order_id, seq)
);

-- what a key was used for; the answer is rebuilt from the facts, never stored. "C": keys are compared, not sorted
create table idempotency (
    principal text collate "C" not null,
    key text collate "C" not null,
    route text not null,
    fingerprint bytea not null,
    -- the order, the ledger row or the product that the key made
    ref_id bigint not null,
    created_at timestamptz not null,
    primary key (principal, key)
);

create type payment_state as enum
    ('created', 'approved', 'capturing', 'pending', 'captured', 'declined', 'failed');

-- one attempt to pay an order; captures and refunds hang below it as facts
create table payment (
    id bigint primary key,
    order_id bigint not null,
    provider text not null,
    provider_order_id text,
    approve_url text,
    state payment_state not null,
    -- when the provider is asked although it has not called: a lost webhook must not lose money
    check_at timestamptz,
    checks integer not null default 0,
    created_at timestamptz not null,
    constraint payment_provider_order_once unique (provider, provider_order_id)
);
create index payment_of_order on payment (order_id);
create index payment_check_due on payment (check_at) where check_at is not null;

-- what the provider said, word by word: the only truth about money. The key is what makes telling it twice harmless
create table payment_fact (
    payment_id bigint not null,
    kind text not null,
    object_id text not null,
    status text not null,
    at timestamptz not null,
    amount_minor bigint,
    currency text,
    parent text,
    seen_at timestamptz not null,
    primary key (payment_id, kind, object_id, status, at)
);
-- webhooks name captures, not orders
create index payment_fact_object on payment_fact (object_id);

create type refund_state as enum ('requested', 'pending', 'completed', 'failed', 'cancelled');

create table refund (
    id bigint primary key,
    order_id bigint not null,
    payment_id bigint not null,
    capture_id text not null,
    amount_minor bigint not null,
    currency text not null,
    reason text not null,
    state refund_state not null,
    provider_refund_id text,
    created_at timestamptz not null,
    constraint refund_amount_positive check (amount_minor > 0)
);
create index refund_of_order on refund (order_id);

create type task_kind as enum ('create_payment', 'capture', 'refund');
create type task_state as enum ('open', 'done', 'failed');

-- a provider call, committed before it is made; its id is the provider's idempotency key. Whoever holds the journal's
-- epoch owns every open task, so there is no lease to keep
create table task (
    id bigint primary key,
    order_id bigint not null,
    payment_id bigint not null,
    refund_id bigint,
    kind task_kind not null,
    state task_state not null,
    attempts integer not null default 0,
    due_at timestamptz not null,
    last_error text,
    created_at timestamptz not null
);
create index task_due on task (due_at) where state = 'open';
create index task_of_order on task (order_id);

-- every verified webhook, as it came. 200 means: it is here. Written outside the journal, marked processed inside it
create table inbox (
    id bigint generated always as identity primary key,
    provider text not null,
    event_id text not null,
    transmission_id text not null,
    event_type text not null,
    locator jsonb not null,
    body bytea not null,
    received_at timestamptz not null,
    processed_at timestamptz,
    attempts integer not null default 0,
    next_at timestamptz not null,
    outcome text,
    constraint inbox_event_once unique (provider, event_id),
    -- the signature covers the transmission id and a weak checksum only: one transmission is one event
    constraint inbox_transmission_once unique (provider, transmission_id)
);
create index inbox_open on inbox (next_at) where processed_at is null;

-- money of each order that has any: what arrived and what went, or is going, back
create view money_of_order as
select o.id as order_id, coalesce(c.captured, 0) as captured, coalesce(r.refunding, 0) as refunding
from customer_order o
join lateral (
    select sum(f.amount_minor) as captured from (
        select distinct on (f.payment_id, f.object_id) f.amount_minor
        from payment p join payment_fact f on f.payment_id = p.id
        where p.order_id = o.id and f.kind = 'capture' and f.status in ('completed', 'partially_refunded', 'refunded')
    ) f
) c on true
join lateral (
    select sum(amount_minor) as refunding from refund
    where order_id = o.id and state in ('requested', 'pending', 'completed')
) r on true
where c.captured is not null or r.refunding is not null or o.status in ('confirmed', 'completed');
