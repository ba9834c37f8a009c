#!/usr/bin/env python3
"""The mutation check: each rule that the promises rest on is turned off, and a test must go red.

The rules are those of src/switch.rs. A build with the feature `mutants` reads the name of one of them from RULE_OFF and
goes without it. For each, the tests that are known to notice are run first; if they all pass, the whole suite is; if
that passes too, the rule is unguarded and this script fails. What was found is written to docs/mutants.md, which
tests/layout.rs holds against the list of rules.

Not here is what cannot be turned off, since the code has no other way: a write that was lost is not sent again because its
bytes are not kept; what comes by a redirect is not filled because no PTTL came with it; generations know no databases;
entries never change. Nor that the lease's clock counts a suspended machine's time, which no test can make pass.

    scripts/mutants.py                 all rules; some ten minutes on two cores
    scripts/mutants.py JoinChecksAge   only these; nothing is written
    scripts/mutants.py --quick         all rules, but the whole suite is never run
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "target" / "mutants"
TABLE = ROOT / "docs" / "mutants.md"

# For each rule the tests that are known to notice, the most telling first. A name stands for all tests that end in it.
NOTICED_BY = {
    "BumpAtSend": ["a_read_behind_a_write_of_its_key_goes_out_with_it"],
    "BumpAtReply": ["what_was_filled_while_a_write_was_on_its_way_is_gone_at_its_reply"],
    "BumpAtDedicatedReply": ["what_was_filled_while_a_write_was_on_its_way_is_gone_at_its_reply"],
    "EffectOfFailure": ["what_was_filled_while_a_write_was_on_its_way_is_gone_when_that_fails"],
    "EffectOfDedicatedFailure": ["what_was_filled_while_a_write_was_on_its_way_is_gone_when_that_fails"],
    "EffectOfLateReply": ["what_a_sweep_given_up_does_later_drops_what_was_filled_since"],
    "QueuedEffects": ["what_was_filled_between_queueing_and_execution_is_gone_at_exec"],
    "PushBumps": ["an_outside_write_is_seen_once_its_push_is_in"],
    "NullPushBumps": ["a_reply_is_not_kept_if_its_key_or_all_keys_were_invalidated_while_it_was_on_its_way"],
    "SweepAtSend": ["a_read_behind_a_write_of_its_key_goes_out_with_it"],
    "SweepAtReply": ["what_was_filled_while_a_write_was_on_its_way_is_gone_at_its_reply"],
    "UnnamedWriteSweeps": ["keys_that_a_rule_puts_in_ttl_mode_show_own_writes_too"],
    "DeniedReadBumps": ["a_read_that_is_denied_ends_the_hits_that_rest_on_the_same_right"],
    "SwapSeen": ["a_swapdb_from_outside_is_noticed_by_the_next_background_poll"],
    "HitsAreWatched": ["a_swapdb_from_outside_is_noticed_by_the_next_background_poll"],
    "FillChecksGeneration": ["a_reply_is_not_kept_if_its_key_or_all_keys_were_invalidated_while_it_was_on_its_way"],
    "FillChecksLaneEpoch": ["a_reply_is_not_kept_if_its_key_or_all_keys_were_invalidated_while_it_was_on_its_way"],
    "FillChecksNodeEpoch": ["a_reply_is_not_kept_if_all_databases_were_swapped_while_it_was_on_its_way"],
    "FillChecksCaching": ["a_read_whose_caching_failed_is_not_kept"],
    "FillChecksPttl": ["a_deadline_comes_before_upstreams_own_expiry_and_is_capped_by_age"],
    "ExpiringIsNotKept": ["a_deadline_comes_before_upstreams_own_expiry_and_is_capped_by_age"],
    "ErrorsAreNotKept": ["errors_are_never_kept"],
    "TrackingIsConfirmed": ["an_upstream_that_cannot_track_is_cached_by_age_and_everybody_is_told"],
    "HitChecksGeneration": ["an_outside_write_is_seen_once_its_push_is_in"],
    "HitChecksLaneEpoch": ["an_entry_is_valid_until_anything_that_it_rests_on_moves"],
    "HitChecksNodeEpoch": ["an_inside_write_to_keys_that_no_command_names_is_seen_by_the_next_read_of_any_client"],
    "HitChecksDeadline": ["no_hit_is_served_after_the_key_s_expiry"],
    "DeadlineFromSending": ["no_hit_is_served_after_the_key_s_expiry"],
    "DeadlineRoundsDown": ["a_deadline_comes_before_upstreams_own_expiry_and_is_capped_by_age"],
    "DeadlineAllowsForDrift": ["a_deadline_comes_before_upstreams_own_expiry_and_is_capped_by_age"],
    "MaxAgeCaps": ["a_right_taken_away_from_inside_is_gone_at_once_and_from_outside_within_max_age"],
    "TtlModeAgeCaps": ["an_upstream_that_cannot_track_is_cached_by_age_and_everybody_is_told"],
    "JitterStaysWithinStaleness": ["no_deadline_exceeds_its_caps"],
    "MissingAreCapped": ["that_a_key_is_missing_is_asked_again_within_the_bound"],
    "LostSlotsAreCapped": ["a_value_is_asked_for_again_within_the_bound_where_lost_slots_are_not_told_of"],
    "FitAgainBumps": ["a_replica_that_was_cut_off_shows_nothing_of_before_when_it_is_fit_again"],
    "OwnWritesAreTold": ["who_has_written_is_not_shown_what_is_kept_of_a_replica_from_before"],
    "SlotEpochsAreApart": ["a_slot_that_was_lost_and_comes_back_shows_nothing_of_before"],
    "LeaseNeedsKeys": ["what_an_isolated_master_says_keeps_no_hits_alive"],
    "MapChangeSettles": ["a_write_by_the_new_map_waits_for_those_by_the_old"],
    "DetoursQueue": ["a_write_that_is_sent_on_queues_behind_one_that_waits"],
    "DetoursKeepOrder": ["what_waits_is_tried_again_in_the_client_s_order_whatever_was_turned_away_first"],
    "DetoursWaitForOthers": ["what_waits_is_tried_again_behind_what_is_on_its_way_to_others"],
    "OvertakenAreGivenUp": ["a_write_that_waits_is_given_up_when_a_later_one_was_executed"],
    "AskBumps": ["a_key_made_at_the_importer_of_redis_is_not_missing_any_more"],
    "HashTtlsCap": ["expired_hash_fields_are_gone_within_max_staleness"],
    "HashTtlsSeenDrop": ["expired_hash_fields_are_gone_within_max_staleness"],
    "HashTtlsMayBe": ["without_the_right_to_info_there_is_one_warning_and_hits_and_readiness_all_the_same"],
    "LanesAreApart": [
        "each_user_has_its_own_rights_and_its_own_cache",
        "select_is_answered_by_upstream_and_only_its_own_client_is_moved",
    ],
    "VersionsAreApart": ["replies_are_kept_apart_by_resp_version"],
    "RequestsAreCompared": ["requests_of_the_same_hash_are_found_apart"],
    "MgetIsOneSnapshot": ["mget_is_one_snapshot_unless_split"],
    "MgetNeedsPushes": ["without_tracking_mget_is_never_assembled"],
    "HitsNeedTheLease": ["a_stopped_upstream_ends_the_lease"],
    "LeaseFromSending": ["the_lease_counts_from_when_the_answered_command_was_sent"],
    "ErrorsRenewNoLease": ["an_upstream_that_answers_by_errors_alone_renews_no_lease"],
    "LeaseEndsWithLane": ["it_ends_with_its_lane"],
    "PongNeedsTheLease": ["it_ends_with_its_lane"],
    "Heartbeat": ["every_metric_moves_when_what_it_counts_happens"],
    "SilenceClosesLane": ["the_successor_of_a_lost_lane_has_the_server_end_it"],
    "LossBumps": ["what_was_cached_before_a_restart_of_upstream_is_not_served_after_it"],
    "ClockAfterRead": ["a_sidecar_stopped_past_the_bound_serves_nothing_old_when_it_goes_on"],
    "DedicatedDataIsHeld": ["who_hears_of_a_write_by_a_dedicated_connection_sees_it_through_any_connection"],
    "DedicatedStatusIsHeld": ["a_script_s_status_on_a_connection_of_its_own_waits_too"],
    "MessagesAreHeld": ["who_hears_of_a_write_by_a_dedicated_connection_sees_it_through_any_connection"],
    "LaneNewsIsHeld": ["who_hears_of_a_write_by_a_lane_sees_it_through_any_other"],
    "ExecIsHeld": ["who_hears_of_a_write_by_a_lane_sees_it_through_any_other"],
    "LargeNewsIsHeld": ["who_hears_of_a_write_by_a_lane_sees_it_through_any_other"],
    "ScriptsAreHeld": ["who_hears_of_a_write_by_a_lane_sees_it_through_any_other"],
    "OwnFence": ["a_script_s_reply_waits_for_the_invalidations_behind_it"],
    "FencesOnLanes": ["who_hears_of_a_write_by_a_dedicated_connection_sees_it_through_any_connection"],
    "FencesOnUsers": ["news_waits_for_the_lanes_of_other_users_and_databases"],
    "FencesOnDatabases": ["news_waits_for_the_lanes_of_other_users_and_databases"],
    "FencesOnWorkers": ["news_waits_for_the_lanes_of_other_workers"],
    "FencesForFlights": ["news_waits_for_a_fetch_that_may_be_older"],
    "FenceIsSentAfter": ["news_does_not_pass_with_a_fence_sent_before_it"],
    "UnansweredFenceBumps": ["a_lane_that_does_not_answer_its_fence_in_time_serves_nothing_of_before"],
    "HitsWaitTheirTurn": ["a_parked_read_that_lost_its_entry_takes_the_later_reads_with_it"],
    "MgetWaitsItsTurn": ["an_mget_that_would_hit_waits_for_its_turn"],
    "ParkedAreJudged": ["a_parked_read_that_lost_its_entry_takes_the_later_reads_with_it"],
    "LaterReadsGoAnew": ["a_parked_read_that_lost_its_entry_takes_the_later_reads_with_it"],
    "EarlierAttemptIsSwallowed": ["a_parked_read_fetched_because_of_a_write_takes_the_later_reads_with_it"],
    "ParkedGoOutFirst": ["a_read_that_would_hit_is_not_fetched_behind_the_write_that_follows_it"],
    "JoinChecksOrder": ["a_read_does_not_join_a_flight_older_than_the_read_before_it"],
    "JoinChecksGeneration": ["nobody_joins_a_fetch_from_before_an_own_write"],
    "JoinChecksLaneEpoch": ["a_reader_joins_only_what_is_no_older_than_what_it_rests_on"],
    "JoinChecksNodeEpoch": ["nobody_joins_a_fetch_from_before_an_own_write"],
    "JoinChecksAge": ["no_reader_joins_a_fetch_older_than_max_staleness"],
    "ChangesWait": ["a_read_in_the_next_database_waits_for_the_move_to_it"],
    "BlocksAreLaneSafe": ["nothing_inside_multi_changes_the_lane_for_others"],
    "BlockEndIsChecked": ["an_exec_that_does_not_end_the_transaction_ends_the_lane"],
    "PoolKeepsTheClean": ["a_clean_connection_is_used_again_and_an_unclean_one_is_not"],
    "PoolKeepsTheSilent": ["connections_that_died_or_spoke_while_resting_are_not_handed_out"],
    "ClientStateTaints": ["what_a_client_leaves_behind_reaches_no_other"],
    "UnfollowedTaints": ["a_connection_that_has_carried_an_unknown_command_serves_nobody_else"],
    "DedicatedIsAligned": ["the_resp_version_changes_on_a_connection_of_ones_own_too"],
    "NothingBeforeAuth": ["before_authentication_everything_is_answered_as_upstream_does"],
    "PasswordIsVerified": ["a_password_that_was_right_is_upstreams_to_judge_each_time"],
    "ExpelledAreLetGo": ["a_right_taken_away_or_a_user_deleted_through_the_sidecar_ends_its_hits"],
    "RefusalSpoils": ["a_refused_command_inside_multi_spoils_the_transaction"],
    "ConfirmationsFirst": [
        "the_resp_version_may_change_while_subscribed",
        "subscribing_and_unsubscribing_are_confirmed_as_upstream_does",
        "messages_stand_between_the_replies_of_a_pipeline_and_none_is_lost",
    ],
    "WaitPublishes": ["wait_counts_the_replicas_that_have_this_client_s_writes"],
    "ControlOvertakes": ["what_must_overtake_what_it_acts_on_does"],
    "PausedWritesLeaveTheLane": ["what_writes_waits_for_the_end_of_a_pause_and_what_reads_does_not"],
    "PartlyWrittenIsDropped": ["a_group_of_which_a_byte_was_written_is_owed_whole_and_its_rest_is_never_sent"],
    "UnsentIsTakenBack": ["what_a_client_was_told_to_be_unexecuted_is_not_executed_later"],
    "RetryNeedsHarmless": ["a_read_lost_with_the_lane_never_sees_the_write_behind_it"],
    "RetryIsOnce": ["a_read_is_sent_again_once_and_then_fails"],
    "RetryKeepsOrder": [
        "what_was_not_sent_goes_out_on_the_next_connection_in_its_order_and_nothing_else_but_reads_does",
    ],
    "TombstonesStay": ["late_replies_fall_into_their_own_places_however_many_time_out"],
    "CommandTimeout": ["a_long_standstill_of_upstream_costs_errors_in_time_and_no_memory"],
    "DedicatedTimeout": ["a_large_write_that_was_given_up_is_not_delivered_any_more"],
    "AbandonedIsReset": ["what_a_lane_that_was_given_up_still_carried_is_not_delivered_any_more"],
    "AbandonedDedicatedIsReset": ["a_large_write_that_was_given_up_is_not_delivered_any_more"],
    "PredecessorIsKilled": ["the_successor_of_a_lost_lane_has_the_server_end_it"],
    "StrangersAreSpared": ["a_lane_that_the_server_has_ended_itself_is_not_killed_by_its_successor"],
    "QueueIsBounded": ["a_lane_takes_so_many_commands_and_refuses_more_at_once"],
    "OutputIsBounded": ["a_reply_beyond_the_output_limit_closes_a_client_that_does_not_read"],
    "SlowClientsArePaused": ["a_client_that_does_not_read_is_paused_and_the_others_are_not"],
    "HeldIsBounded": ["replies_held_for_invalidations_are_bounded"],
    "MasterIsVerified": ["a_demoted_master_is_left_though_nobody_knows_another"],
    "DemotedIsLeft": ["a_demoted_master_is_left_though_nobody_knows_another"],
    "MovedLanesAreLeft": ["an_isolated_master_is_left_though_it_answers"],
    "LeftPoolsEnd": ["an_isolated_master_is_left_though_it_answers"],
    "ViolationEndsHits": ["a_skipped_push_is_reported_and_ends_the_use_of_the_cache"],
}

HEAD = """# Which test notices which rule's absence

Each rule that a promise rests on has a switch in test builds ([src/switch.rs](../src/switch.rs)). `make mutants` turns
them off one at a time and demands a red test for each; this table is what it found. P1 to P8 are the promises of
[design.md](design.md).

| rule | what it keeps | the test that notices | s |
|---|---|---|---|
"""


def rules():
    """Every rule of src/switch.rs with its meaning, in order."""
    text = (ROOT / "src" / "switch.rs").read_text()
    declared = text[text.index("\nrules! {") : text.index("\n}\n", text.index("\nrules! {"))]
    found = re.findall(r"((?:    /// .*\n)+)    (\w+),", declared)
    return {name: " ".join(line.strip()[4:] for line in doc.splitlines()) for doc, name in found}


def nextest(arguments, rule=None):
    """Runs tests without a rule; whether they passed, and those that did not."""
    environment = dict(os.environ, CARGO_TARGET_DIR=str(TARGET), CARGO_TERM_COLOR="never")
    # What a property test finds without a rule is no example to keep.
    environment["PROPTEST_DISABLE_FAILURE_PERSISTENCE"] = "true"
    environment.pop("RULE_OFF", None)
    if rule:
        environment["RULE_OFF"] = rule
    command = ["cargo", "nextest", "run", "--locked", "--features", "mutants", *arguments]
    run = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode not in (0, 100):
        sys.exit(f"{' '.join(command)}\n{run.stdout}")
    red = re.findall(r"^ +(?:FAIL|TIMEOUT|SIG\w+|ABORT) \[[^]]*\](?: \([^)]*\))? (?:\S+) (\S+)", run.stdout, re.M)
    return run.returncode == 0, list(dict.fromkeys(red))


def only(tests):
    """nextest's arguments for these tests."""
    return ["-E", " + ".join(f"test(/(^|::){test}$/)" for test in tests)]


def noticed(rule, whole_suite):
    """The test that notices a rule's absence; None if there is none."""
    known = NOTICED_BY[rule]
    passed, red = nextest(["--max-fail", "1", *only(known)], rule) if known else (True, [])
    if passed and whole_suite:
        print(f"{rule}: none of those that should notice does; the whole suite is run", flush=True)
        passed, red = nextest(["--max-fail", "1"], rule)
    return None if passed else (red or ["?"])[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*", help="only these")
    parser.add_argument("--quick", action="store_true", help="never run the whole suite")
    wanted = parser.parse_args()
    meanings = rules()
    strangers = (set(wanted.rules) | set(NOTICED_BY)) ^ (set(meanings) & (set(wanted.rules) | set(NOTICED_BY)))
    unlisted = set(meanings) - set(NOTICED_BY)
    if strangers or unlisted:
        sys.exit(f"not in src/switch.rs: {sorted(strangers)}; without tests here: {sorted(unlisted)}")
    chosen = wanted.rules or list(meanings)

    tests = sorted({test for rule in chosen for test in NOTICED_BY[rule]})
    passed, red = nextest(["--no-fail-fast", *only(tests)])
    if not passed:
        sys.exit(f"red with all rules on: {', '.join(red)}")
    rows, unguarded = [], []
    for rule in chosen:
        begun = time.monotonic()
        test = noticed(rule, not wanted.quick)
        seconds = time.monotonic() - begun
        print(f"{rule}: {test or 'NOTHING NOTICES'} ({seconds:.0f} s)", flush=True)
        if test is None:
            unguarded.append(rule)
        rows.append(f"| `{rule}` | {meanings[rule]} | `{test}` | {seconds:.0f} |\n")
    if unguarded:
        sys.exit(f"nothing notices the absence of: {', '.join(unguarded)}")
    if not wanted.rules:
        TABLE.write_text(HEAD + "".join(rows))


if __name__ == "__main__":
    main()
