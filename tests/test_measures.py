from tessera.measures import rankings_in


def test_parts_of_the_users_are_no_rankings():
    text, final = {"hr@10": 0.5, "mrr": 0.25}, {"hr@10": 0.75, "mrr": 0.5}
    document = {
        "text": text,
        "final": final,
        "valid": {"text": text},
        "cold": {"text": text, "final": final},
        "warm": {},
    }
    assert rankings_in(document) == {"text": text, "final": final}
