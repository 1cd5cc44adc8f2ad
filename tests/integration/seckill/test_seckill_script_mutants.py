"""Every guard of the flash sale's scripts is needed: without it, a scenario that is named here
fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from redis.exceptions import ResponseError

from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.redis.scripts import ScriptName, Scripts, script_text
from tests.builders import seckill_scenarios as play
from tests.builders.seckill_scenarios import Scenario
from tests.builders.seckill_scripts import Stage

ADMIT, FINISH, GIVE_BACK, LOAD, DRAW, SWEEP = ScriptName


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` occurs once in the script and becomes `new`; then `scenario` fails."""

    script: ScriptName
    old: str
    new: str
    scenario: Scenario

    def text(self) -> str:
        text = script_text(self.script)
        assert text.count(self.old) == 1, (
            f"{self.script}: {self.old!r} stands there {text.count(self.old)} times"
        )
        return text.replace(self.old, self.new)


MUTANTS = [
    # admission
    Mutant(
        ADMIT,
        "if meta[7] then is_ready = false end",
        "",
        play.nobody_comes_while_a_rebuild_holds_it,
    ),
    Mutant(
        ADMIT,
        "if epoch and tonumber(epoch) < min_epoch then is_ready = false end",
        "",
        play.an_entry_of_an_epoch_that_redis_has_not_yet_is_not_ready,
    ),
    Mutant(
        ADMIT,
        "local is_ready = epoch and stock",
        "local is_ready = epoch",
        play.a_state_without_stock_admits_nobody,
    ),
    Mutant(
        ADMIT,
        "state == 'CLOSED' and 5 or 6",
        "6",
        play.a_slow_rebuilder_never_opens_a_closed_activity,
    ),
    Mutant(
        ADMIT,
        "meta[8] == 'DRAW' and not is_again",
        "meta[8] == 'DRAW'",
        play.a_winner_who_is_admitted_again_goes_into_the_line,
    ),
    Mutant(
        ADMIT, "if not is_again then  -- ", "if true then  -- ", play.who_came_in_time_stays_in_time
    ),
    Mutant(ADMIT, "is_again and n or longest", "longest", play.who_came_in_time_stays_in_time),
    Mutant(
        ADMIT,
        "if state == 'PAUSED' then refusal = 9",
        "if false then refusal = 9",
        play.nobody_comes_during_a_pause_and_the_door_opens_again,
    ),
    Mutant(
        ADMIT,
        "state ~= 'OPEN' or now >= ends",
        "now >= ends",
        play.nobody_comes_while_it_is_closing,
    ),
    Mutant(
        ADMIT,
        "state ~= 'OPEN' or now >= ends",
        "state ~= 'OPEN'",
        play.nobody_comes_after_the_end_by_the_clock_of_redis,
    ),
    Mutant(
        ADMIT,
        "elseif is_draw and meta[9]",
        "elseif false",
        play.a_draw_that_has_begun_takes_no_entry,
    ),
    Mutant(
        ADMIT,
        "elseif now < starts then",
        "elseif false then",
        play.nobody_comes_before_the_start_by_the_clock_of_redis,
    ),
    Mutant(
        ADMIT,
        "redis.pcall('XADD'",
        "redis.call('XADD'",
        play.full_memory_is_busy_and_nothing_is_half_written,
    ),
    Mutant(
        ADMIT,
        "  local added = redis.pcall",
        "  redis.call('HSET', KEYS[2], user, held + 1)\n  local added = redis.pcall",
        play.full_memory_is_busy_and_nothing_is_half_written,
    ),
    Mutant(
        ADMIT,
        "if not holds then redis.call('SET'",
        "if true then redis.call('SET'",
        play.a_second_unit_leaves_the_first_ones_view,
    ),
    Mutant(
        ADMIT,
        "taken, room = taken + 1, room - 1",
        "taken = taken + 1",
        play.a_full_line_is_busy_and_takes_nothing,
    ),
    Mutant(
        ADMIT,
        "redis.pcall('HSET', KEYS[4]",
        "redis.call('HSET', KEYS[4]",
        play.full_memory_takes_no_entry_and_draws_nothing,
    ),
    Mutant(
        ADMIT,
        "if known[1] then",
        "if known[1] and not refusal then",
        play.a_replay_wins_over_every_refusal,
    ),
    Mutant(
        ADMIT,
        "if known[1] then",
        "if known[1] and held < limit then",
        play.a_replay_wins_over_every_refusal,
    ),
    Mutant(
        ADMIT,
        "elseif entered_request == request then",
        "elseif entered_request == request and not refusal then",
        play.a_draw_keeps_window_and_pause_and_a_replay_wins,
    ),
    Mutant(
        ADMIT,
        "elseif entry or held >= limit",
        "elseif held >= limit",
        play.an_entry_takes_no_unit_and_counts_once,
    ),
    Mutant(
        ADMIT,
        "elseif entry or held >= limit",
        "elseif entry",
        play.the_limit_counts_what_is_queued_and_what_is_held,
    ),
    Mutant(
        ADMIT, "stock - taken < 1", "stock < 1", play.the_stock_ends_where_it_ends_in_one_call_too
    ),
    Mutant(
        ADMIT,
        "stock - taken < 1",
        "stock - taken < 0",
        play.the_stock_ends_where_it_ends_in_one_call_too,
    ),
    Mutant(
        ADMIT,
        "if redis.call('HINCRBY', KEYS[1], 'out', taken) == taken then",
        "if redis.call('HINCRBY', KEYS[1], 'out', taken) < 0 then",
        play.a_click_that_finds_the_line_empty_is_told_to_all_and_others_are_not,
    ),
    Mutant(
        ADMIT,
        "longest - redis.call(is_draw and 'HLEN' or 'XLEN', KEYS[is_draw and 4 or 3])",
        "longest - redis.call('XLEN', KEYS[3])",
        play.a_draw_takes_so_many_entries_and_no_more,
    ),
    Mutant(ADMIT, "  room = room - 1  --", "  --", play.a_draw_takes_so_many_entries_and_no_more),
    Mutant(
        ADMIT,
        "elseif room < 1 then",
        "elseif false then",
        play.a_full_line_is_busy_and_takes_nothing,
    ),
    Mutant(
        ADMIT,
        "tonumber(meta[10] or '0') + taken +",
        "tonumber(meta[10] or '0') +",
        play.a_refusal_says_how_many_clicks_are_undecided,
    ),
    Mutant(
        ADMIT,
        "(is_draw and redis.call('HLEN', KEYS[4]) or 0)",
        "0",
        play.a_refusal_of_a_draw_counts_its_entries,
    ),
    # what the database decided
    Mutant(
        FINISH,
        "redis.call('HLEN', KEYS[1])",
        "",
        play.a_planted_type_fails_before_anything_is_written,
    ),
    Mutant(
        FINISH,
        "redis.call('HLEN', KEYS[2])",
        "",
        play.a_planted_type_fails_before_anything_is_written,
    ),
    Mutant(
        FINISH,
        "redis.call('HDEL', KEYS[2], record)",
        "",
        play.a_refusal_gives_the_unit_back_and_lets_the_buyer_try_again,
    ),
    Mutant(
        FINISH,
        "'1' .. other_order) == 1 then",
        "'1' .. other_order) >= 0 then",
        play.a_duplicate_of_an_order_that_redis_knows_gives_its_unit_back,
    ),
    Mutant(
        FINISH,
        "if verdict ~= 'P' then back = back + 1 end",
        "back = back + 1",
        play.a_phantom_unit_does_not_come_back,
    ),
    Mutant(
        FINISH,
        "redis.call('XACK', KEYS[3], group, id) == 1",
        "redis.call('XACK', KEYS[3], group, id) >= 0",
        play.a_decision_is_published_once,
    ),
    Mutant(
        FINISH,
        "redis.call('HGET', KEYS[2], record) == '0' .. order",
        "true",
        play.a_late_decision_does_not_revive_what_was_given_back,
    ),
    Mutant(
        FINISH,
        "redis.call('HGET', KEYS[2], record) == '0' .. order",
        "true",
        play.two_entries_of_one_order_count_once,
    ),
    Mutant(
        FINISH,
        "local view = counts[2] and '1' or counts[1] and '0' or '2'",
        "local view = verdict == 'L' and '1' or '2'",
        play.a_second_unit_leaves_the_first_ones_view,
    ),
    # units that come back
    Mutant(
        GIVE_BACK,
        "if epoch < order_epoch then",
        "if epoch < 0 then",
        play.a_unit_of_an_epoch_that_redis_has_not_yet_waits,
    ),
    Mutant(
        GIVE_BACK,
        "if epoch < order_epoch then",
        "if epoch >= 0 and epoch < order_epoch then",
        play.a_unit_waits_while_redis_knows_nothing,
    ),
    Mutant(
        GIVE_BACK,
        "if known and string.sub(known, 2) == order then",
        "if known then",
        play.a_request_that_was_given_back_may_buy_again_and_its_old_unit_takes_nothing,
    ),
    Mutant(
        GIVE_BACK,
        "redis.call('HDEL', KEYS[2], record)",
        "",
        play.a_unit_comes_back_once_and_is_sold_again,
    ),
    Mutant(
        GIVE_BACK,
        "if string.sub(known, 1, 1) == '0' then",
        "if false then",
        play.a_late_decision_does_not_revive_what_was_given_back,
    ),
    Mutant(
        GIVE_BACK,
        "if not is_closed",
        "if true",
        play.a_closed_activity_leaves_the_view_to_the_next_one,
    ),
    Mutant(
        GIVE_BACK, "and not counts[2]", "", play.a_give_back_leaves_the_view_of_another_live_unit
    ),
    Mutant(
        GIVE_BACK,
        " or redis.pcall('GET', KEYS[2 + i]) == '1'",
        "",
        play.a_one_that_nothing_holds_up_falls_with_a_give_back_that_was_counted,
    ),
    Mutant(
        GIVE_BACK,
        "redis.pcall('GET'",
        "redis.call('GET'",
        play.a_view_of_another_type_is_nobodys_answer_and_stops_nothing,
    ),
    # loading
    Mutant(
        LOAD,
        "if redis.call('TYPE', key).ok ~= kind then redis.call('DEL', key) end",
        "",
        play.keys_of_another_kind_go_when_a_rebuild_begins,
    ),
    Mutant(
        LOAD,
        "if (known[1] and not tonumber(known[1])) or (known[2] and not tonumber(known[2])) then "
        "redis.call('DEL', meta) end",
        "",
        play.a_meta_whose_numbers_are_none_goes_when_a_rebuild_begins,
    ),
    Mutant(
        LOAD,
        "redis.pcall('HSET', meta, 'since', tonumber(time[1]) * 1000 + "
        "math.floor(tonumber(time[2]) / 1000))",
        "",
        play.the_end_of_a_rebuild_is_written_down,
    ),
    Mutant(
        LOAD,
        "if now[1] ~= epoch then return 0 end",
        "",
        play.a_rebuilder_whose_epoch_was_replaced_carries_nothing_and_lifts_no_hold,
    ),
    Mutant(
        LOAD,
        "if not known[1] and held < limit",
        "if held < limit",
        play.carry_leaves_an_order_that_is_live,
    ),
    Mutant(
        LOAD,
        "known[1] and held < limit and stock",
        "known[1] and stock",
        play.carry_leaves_what_is_over_the_limit,
    ),
    Mutant(LOAD, " and stock - moved > 0", "", play.what_carry_leaves_the_consumer_decides),
    Mutant(
        LOAD,
        " and stock - moved > 0",
        " and stock > 0",
        play.what_carry_leaves_the_consumer_decides,
    ),
    Mutant(
        LOAD,
        "redis.call('XACK', line, group, entry[1])",
        "",
        play.a_rebuild_keeps_orders_places_and_their_order,
    ),
    Mutant(LOAD, "redis.call('XDEL', line, entry[1])", "", play.a_rebuild_takes_no_place_twice),
    Mutant(LOAD, "redis.call('DEL', users)  --", "--", play.a_rebuild_takes_no_place_twice),
    Mutant(
        LOAD,
        "redis.call('PERSIST', users)",
        "",
        play.the_users_that_a_rebuild_published_do_not_fade,
    ),
    Mutant(
        LOAD,
        "group, '0', 'MKSTREAM'",
        "group, '$', 'MKSTREAM'",
        play.a_line_whose_group_was_lost_is_served_to_its_end,
    ),
    Mutant(
        LOAD,
        "if not known or tonumber(known) <= tonumber(rev) then",
        "if true then",
        play.a_pause_during_a_rebuild_stays,
    ),
    Mutant(
        LOAD,
        "'mode', mode, 'hold', 1)",
        "'mode', mode)",
        play.who_waits_comes_first_also_when_meta_alone_was_lost,
    ),
    Mutant(
        LOAD,
        "if redis.call('EXISTS', meta) == 1 then redis.call('HSET', meta, 'hold', 1) end",
        "redis.call('HSET', meta, 'hold', 1)",
        play.what_is_not_published_is_not_ready,
    ),
    Mutant(
        LOAD,
        "if rev and tonumber(rev) >= tonumber(ARGV[2]) then return 0 end",
        "",
        play.an_older_state_never_replaces_a_newer_one,
    ),
    Mutant(
        LOAD,
        "if epoch and tonumber(epoch) >= tonumber(ARGV[2]) then",
        "if false then",
        play.a_slow_rebuilder_publishes_nothing_after_a_newer_one,
    ),
    Mutant(
        LOAD,
        "if epoch and tonumber(epoch) >= tonumber(ARGV[2]) then",
        "if step ~= 'part' and epoch and tonumber(epoch) >= tonumber(ARGV[2]) then",
        play.a_slow_rebuilder_builds_nothing_after_a_newer_one,
    ),
    Mutant(
        LOAD,
        "if epoch and tonumber(epoch) >= tonumber(ARGV[2]) then",
        "if epoch and tonumber(epoch) > tonumber(ARGV[2]) then",
        play.a_slow_rebuilder_never_opens_a_closed_activity,
    ),
    Mutant(
        LOAD,
        "redis.call('DEL', building)",
        "",
        play.a_slow_rebuilder_publishes_nothing_after_a_newer_one,
    ),
    Mutant(
        LOAD,
        "redis.call('EXPIRE', building, BUILDING_SECONDS)",
        "",
        play.what_a_dead_rebuilder_built_fades,
    ),
    Mutant(
        LOAD,
        "if redis.pcall('GET', KEYS[i]) == '1' then",
        "if true then",
        play.a_one_without_an_order_becomes_two_and_nothing_else_changes,
    ),
    Mutant(
        LOAD,
        "redis.pcall('GET', KEYS[i])",
        "redis.call('GET', KEYS[i])",
        play.a_one_without_an_order_becomes_two_and_nothing_else_changes,
    ),
    Mutant(
        LOAD,
        "if redis.call('EXISTS', meta) == 1 then return 0 end",
        "",
        play.views_are_cleared_before_anything_is_published_and_never_after,
    ),
    Mutant(
        LOAD,
        "redis.call('EXPIRE', meta, ARGV[4])",
        "",
        play.what_a_slow_rebuilder_opened_after_redis_was_lost_is_dropped,
    ),
    Mutant(
        LOAD,
        "redis.call('DEL', meta, users, line, entries)",
        "redis.call('DEL', meta, users, line)",
        play.closing_drops_the_entries,
    ),
    Mutant(
        LOAD, "'state', 'CLOSED')", "'x', '')", play.a_slow_rebuilder_never_opens_a_closed_activity
    ),
    # drawing lots
    Mutant(
        DRAW,
        " or meta[6] ~= 'DRAW' then",
        " then",
        play.nothing_is_drawn_where_nothing_is_to_be_drawn,
    ),
    Mutant(
        DRAW, "if meta[5] then return not_now end", "", play.a_rebuild_between_portions_loses_nobody
    ),
    Mutant(
        DRAW,
        "if state ~= 'CLOSING' and now < ends then return not_now end",
        "",
        play.nothing_is_drawn_before_the_end,
    ),
    Mutant(
        DRAW,
        "redis.pcall('HSET', KEYS[1], 'drawn', 1)",
        "1",
        play.a_draw_that_has_begun_takes_no_entry,
    ),
    Mutant(
        DRAW,
        "redis.pcall('HSET', KEYS[1], 'drawn', 1)",
        "redis.call('HSET', KEYS[1], 'drawn', 1)",
        play.full_memory_takes_no_entry_and_draws_nothing,
    ),
    Mutant(DRAW, "math.min(n, stock)", "n", play.as_many_win_as_there_are_units),
    # consumers that are gone
    Mutant(
        SWEEP,
        "if fields.pending == 0  --",
        "if true  --",
        play.names_of_consumers_that_are_gone_are_removed_and_their_entries_never,
    ),
    Mutant(
        SWEEP,
        "and fields.idle >= tonumber(ARGV[2]) then",
        "then",
        play.names_of_consumers_that_are_gone_are_removed_and_their_entries_never,
    ),
    Mutant(DRAW, "if stock > 0 and order and", "if order and", play.as_many_win_as_there_are_units),
    Mutant(
        DRAW,
        "if stock > 0 and order and",
        "if stock > 0 and",
        play.an_entry_that_nobody_of_us_wrote_wins_nothing,
    ),
    Mutant(
        DRAW,
        " and held < limit then",
        " then",
        play.nobody_wins_twice_when_a_failover_brings_his_entry_back,
    ),
    Mutant(
        DRAW,
        "local said = counts[2] and '1' or counts[1] and '0' or '2'",
        "local said = '2'",
        play.losers_of_a_draw_are_woken_and_a_holder_keeps_his_one,
    ),
    Mutant(DRAW, "redis.call('HDEL', KEYS[4], user)", "", play.as_many_win_as_there_are_units),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.script}-{mutant.old[:40]}")
async def test_without_the_guard_a_scenario_fails(mutant: Mutant, redis_url: str) -> None:
    async with open_admission_redis(redis_url) as redis:
        text = mutant.text()
        await redis.script_load(text)  # it is a program
        stage = Stage(redis, Scripts(redis, {mutant.script: text}))
        with pytest.raises((AssertionError, ResponseError, pytest.fail.Exception)):
            await mutant.scenario(stage)


@pytest.mark.parametrize("name", ScriptName)
def test_every_guard_has_a_mutant(name: ScriptName) -> None:
    guards = [
        line
        for line in script_text(name).split("\n")
        if "[guard]" in line and not line.startswith("--")
    ]
    taken = [mutant.old.strip() for mutant in MUTANTS if mutant.script == name]
    assert guards
    assert [
        line
        for line in guards
        if not any(old.removesuffix("  --").split("\n")[0] in line for old in taken)
    ] == []
