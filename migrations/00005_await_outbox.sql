-- Waiting for what is new in the outbox where it is cheap: in the database (docs/adr/0010-snapshots-of-the-outbox.md).

-- +goose Up

-- +goose StatementBegin
create function sluice.await_outbox(moved pg_snapshot, patience interval, pause interval)
returns boolean language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    over constant timestamptz := clock_timestamp() + patience;
begin
    loop
        -- Each statement has a snapshot of its own. What is looked for is what Outbox.Find finds (store/outbox.go).
        perform from sluice.outbox o
            where o.xid >= pg_snapshot_xmax(moved) and o.xid < pg_snapshot_xmax(pg_current_snapshot())
            limit 1;
        if found then
            return true;
        end if;
        perform from pg_snapshot_xip(moved) under(xid)
            join sluice.outbox o on o.xid = under.xid
            where pg_visible_in_snapshot(under.xid, pg_current_snapshot())
            limit 1;
        if found then
            return true;
        end if;
        if clock_timestamp() >= over then
            return false;
        end if;
        perform pg_sleep_for(pause);
    end loop;
end
$$;
-- +goose StatementEnd

revoke all on function sluice.await_outbox from public;

-- +goose Down
drop function sluice.await_outbox;
