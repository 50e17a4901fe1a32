"""Tests of the life of servers and volumes, on pools in memory."""
