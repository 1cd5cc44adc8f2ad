"""Alipay of mainland China, gateway version 2 with RSA2: pages, QR codes, refunds, bills."""
