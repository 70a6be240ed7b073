-- Parcels and what comes back: shipments with their labels and tracking, returns with what became of each unit.

-- what has left and what became of it when it came back; a part that is split keeps its line
alter type reservation_state add value if not exists 'shipped';
alter type reservation_state add value if not exists 'restocked';
alter type reservation_state add value if not exists 'quarantined';
alter type reservation_state add value if not exists 'scrapped';

alter type ledger_cause add value if not exists 'ship';
alter type ledger_cause add value if not exists 'restock';
alter type ledger_cause add value if not exists 'quarantine';
alter type ledger_cause add value if not exists 'scrap';

alter type task_kind add value if not exists 'buy_label';
alter type task_kind add value if not exists 'void_label';
alter type task_kind add value if not exists 'fetch_label';
alter type task_kind add value if not exists 'sweep_labels';

create type shipment_state as enum
    ('draft', 'purchasing', 'labelled', 'label_failed', 'voiding', 'voided', 'void_rejected', 'in_transit', 'exception',
     'returned_to_sender', 'delivered');

create table shipment (
    id bigint primary key,
    order_id bigint not null,
    state shipment_state not null,
    -- who is asked for the label, with which carrier and service
    service jsonb not null,
    parcel jsonb not null,
    customs jsonb,
    -- why a draft is still one
    waits text,
    -- the carrier's id of the label: one a shipment, ever
    label_id text,
    carrier text,
    tracking_number text,
    tracking_url text,
    file_url text,
    cost_minor bigint,
    cost_currency text,
    -- why the carrier gave no label
    error text,
    -- a label may have been bought without our hearing of it: until then it is only looked for
    doubt_until timestamptz,
    created_at timestamptz not null,
    bought_at timestamptz,
    left_at timestamptz,
    -- when something was last heard of it, and when the carrier is next asked unbidden
    news_at timestamptz not null,
    check_at timestamptz,
    checks integer not null default 0
);
create index shipment_of_order on shipment (order_id);
create index shipment_check_due on shipment (check_at) where check_at is not null;
-- tracking webhooks name a label or a number; numbers are used again, across carriers and years
create index shipment_label on shipment (label_id) where label_id is not null;
create index shipment_tracking_number on shipment (tracking_number) where tracking_number is not null;

-- what is in a shipment; never changed, also when the shipment came to nothing
create table shipment_line (
    shipment_id bigint not null,
    line integer not null,
    sku_id bigint not null,
    quantity bigint not null,
    primary key (shipment_id, line),
    constraint shipment_line_quantity_positive check (quantity > 0)
);

-- what the carrier said of a parcel, word by word; the key is what makes telling it twice harmless
create table tracking_fact (
    shipment_id bigint not null,
    status text not null,
    substatus text not null,
    at timestamptz not null,
    details text not null,
    seen_at timestamptz not null,
    primary key (shipment_id, status, substatus, at)
);

-- the printable label: its address at the carrier ends after a while. Written outside the journal, once
create table label_file (
    shipment_id bigint primary key,
    content_type text not null,
    bytes bytea not null,
    kept_at timestamptz not null
);

create type return_state as enum
    ('requested', 'approved', 'declined', 'in_transit', 'partly_received', 'received', 'inspected', 'closed');

create table goods_return (
    id bigint primary key,
    order_id bigint not null,
    state return_state not null,
    note text,
    -- the parcel that the carrier brings back, where nobody asked for it
    shipment_id bigint,
    -- what its refunds carry as theirs, once it is paid back
    refund_command bigint,
    created_at timestamptz not null
);
create index goods_return_of_order on goods_return (order_id);

create table return_line (
    return_id bigint not null,
    line integer not null,
    sku_id bigint not null,
    quantity bigint not null,
    reason text not null,
    received bigint not null default 0,
    restocked bigint not null default 0,
    quarantined bigint not null default 0,
    scrapped bigint not null default 0,
    primary key (return_id, line),
    constraint return_line_quantity_positive check (quantity > 0),
    constraint return_line_received_within check (received between 0 and quantity),
    constraint return_line_inspected_within check (restocked >= 0 and quarantined >= 0 and scrapped >= 0
        and restocked + quarantined + scrapped <= received)
);

-- the shop's connections read these like everything else
do $$
begin
    if exists (select from pg_roles where rolname = 'souk_shop') then
        grant select on shipment, shipment_line, tracking_fact, label_file, goods_return, return_line to souk_shop;
    end if;
end
$$;
