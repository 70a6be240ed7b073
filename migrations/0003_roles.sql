-- The shop's connections take this role: they read everything and write only the shop's own tables, so no handler can
-- move stock, orders or money past the engine. Where the migrating user may not create roles, or not take this one (some
-- hosted databases), the shop goes without the fence and says so at start.
do $$
begin
    if not exists (select from pg_roles where rolname = 'souk_shop') then
        begin
            create role souk_shop nologin;
        exception
            when duplicate_object or unique_violation then null; -- another database of this server made it just now
            when insufficient_privilege then raise notice 'no right to create the role souk_shop';
        end;
    end if;
    if exists (select from pg_roles where rolname = 'souk_shop') then
        grant usage on schema public to souk_shop;
        grant select on all tables in schema public to souk_shop;
        grant insert, update, delete on product, sku, sku_price to souk_shop;
        begin
            execute format('grant souk_shop to %I', current_user);
        exception
            when insufficient_privilege then raise notice 'no right to take the role souk_shop';
        end;
    end if;
end
$$;
