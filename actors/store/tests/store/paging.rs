//! Lists of a module's state, read in parts.

use nexum_host_ifaces::store::{StateChange, StateView};

use crate::harness::{Harness, directory, put};

fn delete(key: &str, old: &str) -> StateChange {
    StateChange { key: key.into(), new: None, old: Some(old.into()) }
}

#[tokio::test]
async fn what_is_deleted_shortens_no_page_but_the_last() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let (mut module, mut next) = (harness.module("a").await, harness.module("b").await);
    let key = |number: usize| format!("k/{number:02}");
    let all = (0..20).map(|number| put(&key(number), "v", None));
    harness.handle(&mut module, all.chain([put("l", "v", None)]).collect()).await;
    harness.handle(&mut next, vec![put("k/00", "of another module", None)]).await;
    let (gone, left): (Vec<usize>, Vec<usize>) = (0..20).partition(|number| number % 3 != 0);
    harness.handle(&mut module, gone.iter().map(|number| delete(&key(*number), "v")).collect()).await;
    let expected: Vec<String> = left.into_iter().map(key).collect();
    for limit in 1..=8 {
        let (mut paged, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = harness.store.scan(module.info.id, "k/", after.as_deref(), limit).unwrap();
            let whole = page.len() == limit;
            after = page.last().map(|(key, _)| key.clone());
            paged.extend(page.into_iter().map(|(key, _)| key));
            if !whole {
                break;
            }
        }
        assert_eq!(paged, expected, "{limit} at a time");
    }
    harness.close().await;
}
