-- The shop's own records: what nobody competes for. Stock is the engine's (0001_engine.sql).

create table product (
    id bigint primary key,
    slug text not null,
    name text not null,
    description text not null default '',
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint product_slug_once unique (slug)
);

create table sku (
    id bigint primary key,
    product_id bigint not null references product,
    code text not null,
    position integer not null,
    -- what its stock begins with: the engine opens it right after this row is committed, or at the next start
    first_stock bigint not null,
    constraint sku_code_once unique (code),
    constraint sku_first_stock_not_negative check (first_stock >= 0)
);
create index sku_of_product on sku (product_id, position);

-- a SKU is sold in the currencies it has a price in; nothing is converted
create table sku_price (
    sku_id bigint not null references sku,
    currency text not null,
    minor bigint not null,
    primary key (sku_id, currency),
    constraint sku_price_not_negative check (minor >= 0)
);
