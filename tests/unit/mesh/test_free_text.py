from __future__ import annotations

import pytest
from paymesh.order.v1 import catalog_pb2, order_pb2

from mesh.free_text import (
    CARD_PROBLEM,
    EMPTY_PROBLEM,
    STEERING_PROBLEM,
    FreeTexts,
    card_numbers,
    masked,
    plain,
)

CARDS = (
    "4111111111111111",
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "4111.1111.1111.1111",
    "5105105105105100",
    "2223003122003222",
    "378282246310005",
    "3782 822463 10005",
    "30569309025904",
    "6011111111111117",
    "3530111333300000",
    "6200000000000005",
    "6759649826438453",
    "4222222222222",
    "\uff14111111111111111",
)
OTHERS = (
    "4111111111111112",
    "20261129123456789",
    "13800138000",
    "+86 138 0013 8000",
    "0049 170 1234567",
    "SF1234567890123",
    "RA4111111111111111CN",
    "PAY4111111111111111",
    "ORD01JD0000000000000000000000",
    "41111111111111111111",
    "1111 1111 1111 1111",
    "2026-11-29 17:20:50",
    "9.99 4.50 1.20",
    "",
)


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize(
    "text",
    ["{}", "card {} 12/30 123", "card {} 12 30", "卡号{}。", "order 20261129 {}", "12 {}", "({})"],
)
def test_a_card_number_is_found_wherever_it_stands(card: str, text: str) -> None:
    written = text.format(card)
    [(begin, end)] = list(card_numbers(written))
    assert written[begin:end] == card
    shown = masked(written)
    assert card not in shown
    assert card[-4:] in shown
    assert list(card_numbers(shown)) == []


@pytest.mark.parametrize("text", OTHERS)
def test_other_numbers_are_no_card_numbers(text: str) -> None:
    assert list(card_numbers(text)) == []
    assert masked(text) == text


def test_every_card_of_a_text_is_masked() -> None:
    assert (
        masked("a 4111 1111 1111 1111, b 5105105105105100")
        == "a **** **** **** 1111, b ************5100"
    )


@pytest.mark.parametrize(
    "character",
    [
        "\0",
        "\a",
        "\b",
        "\t",
        "\n",
        "\r",
        "\x1b",
        "\x7f",
        "\x85",
        "\x9b",
        "\u2028",
        "\u2029",
        "\u202e",
        "\u2066",
        "\u200f",
    ],
)
def test_what_steers_a_terminal_is_refused_where_it_enters_and_replaced_where_nothing_can_be_refused(
    character: str,
) -> None:
    texts = FreeTexts(order_pb2.SetShippingAddressRequest.DESCRIPTOR)
    assert texts
    request = order_pb2.SetShippingAddressRequest(
        address=order_pb2.Address(
            recipient=f"a{character}b", city="北京 \U0001f468\u200d\U0001f469 é"
        )
    )
    assert texts.problems(request) == {"address.recipient": STEERING_PROBLEM}
    assert plain(f"a{character}b 4111111111111111") == "a\ufffdb ************1111"


def test_a_reason_holds_no_card_number_and_a_name_may_look_like_one() -> None:
    reason = order_pb2.CancelOrderRequest(reason="I paid with 4111 1111 1111 1111")
    assert FreeTexts(order_pb2.CancelOrderRequest.DESCRIPTOR).problems(reason) == {
        "reason": CARD_PROBLEM
    }
    carrier = order_pb2.ShipOrderRequest(carrier="4111111111111111")
    assert FreeTexts(order_pb2.ShipOrderRequest.DESCRIPTOR).problems(carrier) == {}
    assert not FreeTexts(order_pb2.GetOrderRequest.DESCRIPTOR)


@pytest.mark.parametrize(
    "name", [" ", "\u3000\u00a0", "\u200b\u200d", "\u3164", "\u2800", "\u0301"]
)
def test_a_text_that_nobody_can_see_is_refused(name: str) -> None:
    assert FreeTexts(catalog_pb2.CreateProductRequest.DESCRIPTOR).problems(
        catalog_pb2.CreateProductRequest(name=name)
    ) == {"name": EMPTY_PROBLEM}


@pytest.mark.parametrize("name", ["", "x", "茶", "☕", " 1 ", "e\u0301"])
def test_a_text_with_anything_to_see_is_taken(name: str) -> None:
    assert (
        FreeTexts(catalog_pb2.CreateProductRequest.DESCRIPTOR).problems(
            catalog_pb2.CreateProductRequest(name=name)
        )
        == {}
    )


def test_texts_in_lists_and_values_of_maps_are_looked_at_and_named() -> None:
    texts = FreeTexts(order_pb2.CreateOrderRequest.DESCRIPTOR)
    order = order_pb2.CreateOrderRequest(
        items=[
            order_pb2.NewOrderItem(product_name="Cup", attributes={"colour": "blue"}),
            order_pb2.NewOrderItem(
                product_name="Cup\n", attributes={"card": "4111 1111 1111 1111"}
            ),
        ],
        metadata={"note": "\u202eevil", "campaign": "spring"},
    )
    assert texts.problems(order) == {
        "items[1].product_name": STEERING_PROBLEM,
        "items[1].attributes[card]": CARD_PROBLEM,
        "metadata[note]": STEERING_PROBLEM,
    }
    assert texts.problems(order_pb2.CreateOrderRequest(items=order.items[:1])) == {}
