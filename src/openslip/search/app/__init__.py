"""`slip serve`: a page to search and look at an index, and the JSON API beneath it.

server      the address, the words at the start and the end, and patience with clients that stall
routes      what each path answers
requests    what clients ask for, read and checked
bodies      bodies as they come: how large, how slow, and clients that have gone
worker      one thread that computes what many clients ask for, together
security    who may ask at all, and what browsers may do with the answers
pictures    pictures that clients send, and those of the index as they are shown
columns     what the records can be filtered by
places      where each picture lies on the map
openapi     the description of the API
static/     the page: HTML, CSS and JavaScript modules, as they are
"""
