-- Stock imports: a file of corrections, checked whole, then applied line by line, each line once.

-- staged: its lines are still being written, nobody sees it; rejected: bad lines, nothing is applied
create type import_state as enum ('staged', 'applying', 'done', 'rejected');

create table stock_import (
    id bigint primary key,
    mode text not null,
    state import_state not null,
    -- applied and failed are moved by the statement that settles the lines; their sum is total when it is done
    total integer not null,
    applied integer not null default 0,
    failed integer not null default 0,
    created_at timestamptz not null,
    finished_at timestamptz,
    constraint stock_import_within_total check (applied >= 0 and failed >= 0 and applied + failed <= total)
);
-- what the importer has to go on with after a start, and what is to be swept up
create index stock_import_open on stock_import (id) where state = 'applying';
create index stock_import_waste on stock_import (created_at) where state in ('staged', 'rejected');

create type import_line_state as enum ('pending', 'applied', 'failed');

-- a line is applied in the transaction that makes it 'applied': it cannot happen twice, whoever dies when. No index but
-- the key: settling a line changes no indexed column, and so stays within its page
create table stock_import_line (
    import_id bigint not null,
    -- its number in the file, the first line is 1
    line integer not null,
    code text not null,
    -- what it asks; a line that could not be read asks nothing
    sku_id bigint,
    delta bigint,
    expected bigint,
    reason text,
    state import_line_state not null,
    -- what is wrong with it: in one word, and for a person
    problem text,
    detail text,
    primary key (import_id, line)
) with (fillfactor = 80);

-- keys that made no order are pruned by age; a checkout's key is its order's for ever and is not in here
create index idempotency_age on idempotency (created_at) where route <> 'checkout';
