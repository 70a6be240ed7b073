-- Live stock: of what is reserved, the units of orders that are not paid. They may come back, and buyers are told so.
-- An engine of the former version would not move this counter: it is shut out here, as a newer engine would, and whatever
-- it was committing is waited for
update journal set epoch = epoch + 1, owner = null;
alter table stock add column unpaid bigint not null default 0;
update stock s set unpaid = r.units
from (select sku_id, sum(quantity) as units from reservation where state = 'held' group by sku_id) r
where r.sku_id = s.sku_id;
alter table stock add constraint stock_unpaid_within_reserved check (unpaid between 0 and reserved);

-- The waiting room of a sale. Nothing is written for one who joins: a ticket is a number that the shop has signed, and
-- numbers are leased in blocks
create table waiting_room (
    sale_id bigint primary key,
    -- numbers below this may have been given
    given bigint not null,
    -- the draw of the places of those who came before the start: what it was drawn by, and among how many. Together null
    -- until the sale starts
    seed bigint,
    drawn bigint,
    -- places below this were called
    called bigint not null default 0,
    constraint waiting_room_drawn_whole check ((seed is null) = (drawn is null)),
    constraint waiting_room_called_after_the_draw check (called = 0 or seed is not null),
    constraint waiting_room_called_within_given check (called between 0 and given)
);

-- places that were called together, and until when they can be used
create table room_call (
    sale_id bigint not null,
    first_place bigint not null,
    -- the first that is not among them
    end_place bigint not null,
    until timestamptz not null,
    primary key (sale_id, first_place),
    constraint room_call_of_somebody check (first_place < end_place)
);

-- the order that was placed with a ticket: one, at the most
create table ticket_use (
    sale_id bigint not null,
    place bigint not null,
    order_id bigint not null,
    at timestamptz not null,
    primary key (sale_id, place)
);

do $$
begin
    if exists (select from pg_roles where rolname = 'souk_shop') then
        grant select on waiting_room, room_call, ticket_use to souk_shop;
    end if;
end
$$;
