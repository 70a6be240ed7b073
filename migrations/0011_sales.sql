-- Sales: some SKUs, for a while, at a price of their own, so many units of each and so many for one customer.

create table sale (
    id bigint primary key,
    -- grows with every change; each change names the version it was decided on
    version integer not null default 1,
    name text not null,
    -- it runs in [starts_at, ends_at)
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    -- units of one SKU that one customer can have of it; null: no limit
    per_customer bigint,
    -- how long a checkout of it holds its lines; null: as the shop's settings say
    hold_seconds integer,
    -- whether buyers queue for it
    waiting_room boolean not null default false,
    -- called off before it began: it never takes place
    cancelled_at timestamptz,
    created_at timestamptz not null,
    constraint sale_begins_before_it_ends check (starts_at < ends_at),
    constraint sale_limit_positive check (per_customer > 0),
    constraint sale_hold_positive check (hold_seconds > 0)
);
-- what is coming or running: asked at every start, and by whoever looks at the list
create index sale_end on sale (ends_at) where cancelled_at is null;

-- what a sale has of a SKU. fillfactor leaves room for HOT updates: of a sale's rows this is the one that everybody changes
create table sale_sku (
    sale_id bigint not null,
    sku_id bigint not null,
    position integer not null,
    quantity bigint not null,
    -- units in orders that were not called off, paid or not
    sold bigint not null default 0,
    -- until the sale ends the SKU is sold in it alone; else what the sale does not have is sold at its usual price
    exclusive boolean not null,
    -- the sale's window, here for the constraint below and for the last look of a checkout; empty once it was called off
    during tstzrange not null,
    primary key (sale_id, sku_id),
    constraint sale_sku_quantity_positive check (quantity > 0),
    constraint sale_sku_sold_within_quantity check (sold between 0 and quantity),
    -- a SKU is in one sale at a time. A range of one number, for gist knows ranges without an extension
    constraint sale_sku_in_one_sale_at_a_time exclude using gist (int8range(sku_id, sku_id, '[]') with &&, during with &&)
) with (fillfactor = 50);

-- a SKU's price in a sale; in a currency that is not here it is not sold while the sale runs
create table sale_price (
    sale_id bigint not null,
    sku_id bigint not null,
    currency text not null,
    minor bigint not null,
    primary key (sale_id, sku_id, currency),
    constraint sale_price_not_negative check (minor >= 0)
);

-- what one customer has of a SKU in a sale with a limit. Who that is is kept as a hash: no address stands here
create table limit_use (
    sale_id bigint not null,
    sku_id bigint not null,
    customer bytea not null,
    used bigint not null,
    cap bigint not null,
    primary key (sale_id, sku_id, customer),
    constraint limit_use_within_cap check (used between 0 and cap)
);

-- in which sale a line was bought, and, where that has a limit, by whom: what is given back with the line when it is
-- released or expires. Null for what was bought at its usual price, and then it takes no room
alter table reservation
    add column sale_id bigint,
    add column customer bytea;

-- the shop's connections read these like everything else
do $$
begin
    if exists (select from pg_roles where rolname = 'souk_shop') then
        grant select on sale, sale_sku, sale_price, limit_use to souk_shop;
    end if;
end
$$;
