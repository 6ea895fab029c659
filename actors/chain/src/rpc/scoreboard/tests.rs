//! Tables of the cases that scoreboard decides.

use super::*;

const S: u64 = 1_000_000_000;

fn board() -> Scoreboard {
    let mut board = Scoreboard::new([("a".to_owned(), 0), ("b".to_owned(), 1), ("c".to_owned(), 1)], 10 * S);
    assert_eq!(board.leader(0), None);
    (0..3).for_each(|index| board.up(index, 0));
    board
}

#[test]
fn priority_decides_among_those_that_are_up() {
    let mut board = board();
    assert_eq!(board.order(S), [0, 1, 2]);
    assert!(board.down(0, S, "gone".into()));
    assert!(!board.down(0, S, "still gone".into()));
    assert_eq!(board.order(S), [1, 2, 0]);
    assert_eq!(board.status(S)[0].last_error.as_deref(), Some("still gone"));
    assert!(board.status(S)[1].leads);
}

#[test]
fn one_that_was_just_lost_is_heard_before_another_says_what_is_final_alone() {
    let mut board = Scoreboard::new([("a".to_owned(), 0), ("b".to_owned(), 1)], 10 * S);
    board.up(0, 0);
    assert_eq!(board.awaited(0), Some(1), "it is still being connected");
    board.down(1, S, "never there".into());
    assert_eq!(board.awaited(S), None);
    board.up(1, 2 * S);
    assert_eq!(board.awaited(2 * S), None);
    board.down(1, 5 * S, "gone".into());
    assert_eq!((board.awaited(5 * S), board.awaited(14 * S), board.awaited(15 * S)), (Some(1), Some(1), None));
    board.refuse(1, "another chain".into());
    assert_eq!(board.awaited(5 * S), None);
    let mut alone = Scoreboard::new([("a".to_owned(), 0)], 10 * S);
    alone.up(0, 0);
    assert_eq!(alone.awaited(0), None);
}

#[test]
fn one_that_failed_is_on_probation_when_it_returns() {
    let mut board = board();
    board.down(0, S, "gone".into());
    board.up(0, 2 * S);
    assert_eq!(board.leader(2 * S), Some(1));
    assert_eq!(board.leader(3 * S), Some(0));
    board.down(0, 4 * S, "again".into());
    board.up(0, 5 * S);
    assert_eq!(board.leader(6 * S), Some(1), "the second time it takes longer");
    assert_eq!(board.leader(7 * S), Some(0));
    (1..3).for_each(|index| {
        board.down(index, 7 * S, "gone".into());
    });
    assert_eq!(board.leader(7 * S), Some(0), "who is alone is used, probation or not");
}

#[test]
fn one_that_lags_for_long_is_left_until_it_caught_up() {
    let mut board = board();
    board.head(0, 100, 0);
    board.head(1, 103, 0);
    assert_eq!(board.leader(60 * S), Some(0), "three blocks are no lag");
    board.head(1, 104, 60 * S);
    assert_eq!(board.leader(70 * S), Some(0));
    assert_eq!(board.leader(71 * S), Some(1));
    board.head(1, 105, 71 * S);
    assert_eq!(board.status(71 * S)[2].lag, None, "it has not told anything");
    assert_eq!(board.take_demoted(), [(0, Demotion::Lagging)]);
    assert_eq!((board.status(71 * S)[0].lag, board.status(71 * S)[0].healthy), (Some(5), false));
    board.head(0, 105, 72 * S);
    assert_eq!(board.leader(72 * S), Some(0));
    assert_eq!(board.best_head(), Some(105));
}

#[test]
fn a_liar_is_avoided_longer_each_time_and_a_wrong_chain_for_good() {
    let mut board = board();
    let lie = |board: &mut Scoreboard, at_ns| board.avoid(0, at_ns, Demotion::Wrong, 0, "another block's".into());
    lie(&mut board, S);
    lie(&mut board, S);
    assert_eq!(board.take_demoted(), [(0, Demotion::Wrong)], "what was under way together counts once");
    assert_eq!(board.leader(2 * S), Some(1));
    assert!(!board.status(2 * S)[0].healthy && board.status(2 * S)[0].connected);
    let again = board.entries[0].avoided_until_ns;
    assert_eq!(board.leader(again), Some(0));
    lie(&mut board, again);
    assert_eq!(board.leader(again + 9 * S), Some(1));
    assert_eq!(board.leader(again + 10 * S), Some(0));
    let later = again + 200 * S;
    lie(&mut board, later);
    assert_eq!(board.leader(later + 5 * S), Some(0), "forgotten by then");
    assert!(board.refuse(0, "chain 5".into()));
    assert!(!board.refuse(0, "chain 5".into()));
    assert_eq!(board.order(later + 60 * S), [1, 2]);
}

#[test]
fn what_a_module_asks_too_much_of_is_spared_its_requests_alone() {
    let mut board = board();
    board.spare(0, S, 0, "no answer in time".into());
    assert_eq!((board.order(2 * S), board.order_for_modules(2 * S)), (vec![0, 1, 2], vec![1, 2, 0]));
    assert_eq!(board.order_for_modules(3 * S), [0, 1, 2]);
    let status = &board.status(2 * S)[0];
    assert!(status.healthy && status.demotions == 0 && status.score == 100, "{status:?}");
}

#[test]
fn who_is_asked_to_wait_is_left_for_as_long() {
    let mut board = board();
    board.avoid(0, S, Demotion::RateLimited, 30 * S, "429".into());
    assert_eq!(board.leader(30 * S), Some(1));
    assert_eq!(board.leader(31 * S), Some(0));
}

#[test]
fn one_that_fails_more_than_a_third_is_demoted_until_it_answers_again() {
    let mut board = board();
    for nth in 0..300 {
        if nth % 4 == 0 { board.failed(0, S) } else { board.answered(0, 5_000_000) }
    }
    assert_eq!(board.leader(S), Some(0), "a quarter is borne");
    for nth in 0..300 {
        if nth % 2 == 0 { board.failed(0, S) } else { board.answered(0, 5_000_000) }
    }
    assert_eq!(board.leader(S), Some(1));
    assert_eq!(board.take_demoted(), [(0, Demotion::Failing)]);
    let status = &board.status(S)[0];
    assert!(status.score < 50 && !status.healthy && status.latency_p50_ms == Some(5.0), "{status:?}");
    assert_eq!(board.leader(31 * S), Some(0), "it let nothing down for long, and was asked nothing either");
    board.failed(0, 31 * S);
    assert_eq!(board.leader(31 * S), Some(1), "the next failure counts");
    (0..30).for_each(|_| board.answered(0, 1));
    assert_eq!(board.leader(31 * S), Some(0));
}

/// Once it was right about some blocks above the others. Then it makes up a far head.
#[test]
fn one_that_was_right_is_believed_as_far_as_it_was_right_and_no_further() {
    let mut board = one_that_was_right();
    assert!(board.admits(0, 118, 2 * S, 0), "it was right about as many");
    assert!(!board.admits(0, 1 << 40, 3 * S, 0), "and never about so many");
    assert_eq!(board.best_head(), Some(110));
    let mut board = one_that_was_right();
    board.avoid(0, 2 * S, Demotion::Wrong, 0, "a lie".into());
    assert!(!board.admits(0, 118, 2 * S, 0), "who was wrong is believed no more");
}

/// The first of two was right about block 110, when the other one was at 100.
fn one_that_was_right() -> Scoreboard {
    let hash = Hash([7; 32]);
    let mut board = Scoreboard::new([("a".to_owned(), 0), ("b".to_owned(), 1)], 30 * S);
    for index in 0..2 {
        board.up(index, 0);
        board.head(index, 100, 0);
    }
    assert!(!board.admits(0, 110, S, 0), "nobody bears it out");
    board.promise(0, 110, hash, S);
    board.head(1, 110, 2 * S);
    board.redeem(110, &|_| Some(hash), 2 * S);
    board
}

#[test]
fn one_that_is_ahead_can_say_what_is_in_a_block_and_one_that_is_behind_cannot() {
    let mut board = Scoreboard::new([("a".to_owned(), 0), ("b".to_owned(), 1), ("c".to_owned(), 2)], 30 * S);
    for index in 0..3 {
        board.up(index, 0);
        board.head(index, 100, 0);
    }
    board.head(1, 200, S);
    board.head(0, 101, 2 * S);
    board.head(1, 201, 2 * S);
    assert_eq!(board.on_chain(2 * S), [0, 2], "its head is above all others'");
    assert_eq!(board.witnesses(2 * S), [0, 2, 1]);
    board.syncing(2, true);
    assert_eq!(board.witnesses(2 * S), [0, 1]);
    board.syncing(0, true);
    board.down(1, 3 * S, "gone".into());
    assert_eq!(board.witnesses(3 * S), [0, 2], "nobody else is there");
}

#[test]
fn those_that_are_where_the_chain_is_have_a_say_about_what_is_final() {
    let mut board = board();
    board.avoid(0, S, Demotion::Wrong, 0, "a lie".into());
    assert_eq!(board.on_chain(2 * S), [1, 2, 0], "without it another one could say anything");
    board.syncing(0, true);
    board.down(1, S, "gone".into());
    assert_eq!(board.on_chain(2 * S), [2]);
    board.syncing(2, true);
    assert_eq!(board.on_chain(2 * S), [2, 0], "nobody is there, and some are up");
    board.down(0, 2 * S, "gone".into());
    board.down(2, 2 * S, "gone".into());
    assert_eq!(board.on_chain(2 * S).len(), 3, "they may be back");
}
