"""`slip serve`: a page to search and look at an index, and the JSON API behind the page.

server      the socket and the address, the start and the end, and time limits for clients that stall
routes      the answer to each path
requests    the requests of clients, read and checked
bodies      request bodies: how large, how slow, and clients that have gone
worker      one thread that computes the requests of many clients together
security    who may send requests, and what browsers may do with the answers
pictures    pictures that clients send, and pictures of the index as the page shows them
columns     the columns that records can be filtered by
places      the place of each picture on the map
openapi     the description of the API
static/     the page: HTML, CSS and JavaScript modules, as they are
"""
