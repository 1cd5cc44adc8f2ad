"""Admits the operator's own services as callers. The contract names the callers of each method; a
setting adds others without a change of the protos.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mesh.call import Role
from mesh.policies import MethodPolicy, PolicyInvalid

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_METHOD = re.compile(r"/?(?P<service>[A-Za-z0-9_.]+)/(?P<method>[A-Za-z0-9_]+)", re.ASCII)


def admit(
    policies: Mapping[str, MethodPolicy], extra: Mapping[str, Sequence[str]]
) -> dict[str, MethodPolicy]:
    """The policies by path, with further callers in the rule for services.

    Args:
        extra: name of a caller -> methods, e.g. {"billing":
            ["paymesh.payment.v1.PaymentService/GetPaymentByOrderId"]}. Methods of services that are
            not served here are ignored, so one setting works for all processes.

    Raises:
        PolicyInvalid: an invalid caller name, or a method that does not exist or that the contract
            allows to no service.
    """
    served = {policy.service for policy in policies.values()}
    admitted = dict(policies)
    for caller, methods in extra.items():
        if _NAME.fullmatch(caller) is None:
            raise PolicyInvalid(f"extra_callers: {caller!r} is no name of a service")
        for method in methods:
            match = _METHOD.fullmatch(method)
            if match is None:
                raise PolicyInvalid(
                    f"extra_callers: {method!r} is not <package>.<Service>/<Method>"
                )
            if match["service"] in served:
                path = f"/{match['service']}/{match['method']}"
                admitted[path] = _with_caller(admitted.get(path), caller, method)
    return admitted


def _with_caller(policy: MethodPolicy | None, caller: str, method: str) -> MethodPolicy:
    if policy is None:
        raise PolicyInvalid(f"extra_callers: there is no method {method}")
    if Role.SERVICE not in policy.roles:
        raise PolicyInvalid(
            f"extra_callers: the contract opens {method} to no service; its callers need a user "
            f"token"
        )
    rules = tuple(
        replace(rule, callers=rule.callers | {caller}) if rule.role is Role.SERVICE else rule
        for rule in policy.rules
    )
    return replace(policy, rules=rules)
